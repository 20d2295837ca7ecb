import time

import pytest
from torch import nn
from typing_extensions import override

from codistill.errors import (
    CodistillWarning,
    PeerMissingError,
    SnapshotError,
    SnapshotMismatchError,
    StoreError,
)
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint import Membership, SnapshotOptions
from codistill.exchange.checkpoint.fading import Fading
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.heartbeat import Heartbeat
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.membership import PeerFinder
from codistill.exchange.checkpoint.newcomers import Newcomers
from codistill.exchange.checkpoint.newest import NewestReader
from codistill.exchange.checkpoint.roster import Roster, Sighted
from codistill.exchange.checkpoint.sighting import Look
from codistill.exchange.teacher_options import TeacherOptions
from codistill.snapshots.status import Status
from codistill.stores.memory import MemoryStore
from codistill.testing.clock import FakeClock
from codistill.testing.peers import run_peers
from codistill.topologies import All, Ring

SHARD_OF_B = "b/snapshots/0-1/shard"


@pytest.fixture
def learner(store, join, publish):
    """Return peer a of two, which holds the first snapshot of b, of step 1."""
    publish(store, "b", [1])
    exchange = join(store, "a", peers=["a", "b"])
    assert exchange.teachers["b"].step == 1
    return exchange


def step(exchange, *numbers, samples=0):
    for number in numbers:
        exchange.step(Progress(step=number, samples=samples))


def publish_next(publish, store, number, **options):
    """Let b go on from its first snapshot; later ones have later incarnations."""
    publish(store, "b", [number], incarnation=number, **options)


def test_a_peer_that_comes_first_has_no_teacher_and_waits_for_nobody(store, join):
    clock = FakeClock()
    exchange = join(store, "a", clock=clock)
    assert dict(exchange.teachers) == {}
    assert clock.sleeps == []


def test_a_teacher_that_is_there_at_the_start_is_taken(learner, weight_of):
    assert weight_of(learner, "b") == 1.0
    assert learner.counters.bytes_fetched > 0


def test_a_newer_snapshot_is_taken_at_the_interval(store, learner, publish, weight_of):
    publish_next(publish, store, 5)
    step(learner, 1)
    assert weight_of(learner, "b") == 5.0
    assert learner.counters.fetched == ["b"]
    step(learner, 2)
    assert learner.counters.fetched == []
    assert learner.teachers["b"].age_steps == 1


def test_nothing_is_read_between_intervals(store, join, publish):
    publish(store, "b", [1])
    exchange = join(store, "a", interval_steps=3)
    before = len(store.calls)
    step(exchange, 1)
    step(exchange, 2)
    assert len(store.calls) == before
    step(exchange, 3)
    assert len(store.calls) > before


def test_a_snapshot_that_is_held_is_not_downloaded_again(store, learner):
    before = store.count("read", key_contains="shard")
    for number in range(1, 5):
        step(learner, number)
    assert store.count("read", key_contains="shard") == before


def test_it_never_goes_back_to_an_older_snapshot(store, learner, publish, weight_of):
    publish_next(publish, store, 5)
    step(learner, 1)
    old = store.read("b/latest.json", max_bytes=10**4)
    publish_next(publish, store, 6)
    step(learner, 2)
    store.write("b/latest.json", old)  # somebody writes an old pointer
    step(learner, 3)
    assert weight_of(learner, "b") == 6.0


def test_a_step_that_goes_back_in_a_new_life_is_newer(store, learner, publish, weight_of):
    publish(store, "b", [90])
    publish(store, "b", [2], incarnation=1)
    step(learner, 1)
    assert learner.teachers["b"].step == 2
    assert learner.teachers["b"].incarnation == 1


@pytest.mark.parametrize("fault", ["flip_bit", "truncate"])
@pytest.mark.parametrize("document", ["shard", "manifest"])
def test_a_damaged_snapshot_is_refused_with_one_warning(store, learner, publish, weight_of, fault, document):
    publish_next(publish, store, 2)
    arguments = [100] if fault == "truncate" else []
    getattr(store.faults, fault)(*arguments, key_contains=f"2-0/{document}")
    with pytest.warns(
        CodistillWarning, match=r"Nothing new was taken from peer 'b' at step 1: .*2-0"
    ) as caught:
        step(learner, 1, 2, 3)
    assert len(caught) == 1
    assert weight_of(learner, "b") == 1.0
    assert learner.teachers["b"].age_steps == 3
    publish_next(publish, store, 3)
    step(learner, 4)
    assert weight_of(learner, "b") == 3.0


def test_a_damaged_snapshot_is_downloaded_twice_at_most(store, learner, publish):
    publish_next(publish, store, 2)
    store.faults.flip_bit(key_contains="2-0/shard")
    with pytest.warns(CodistillWarning):
        step(learner, 1)
    for number in (2, 3, 4):
        step(learner, number)
    assert store.count("read", key_contains="2-0/shard") == 2


def test_half_an_answer_does_not_cost_a_last_snapshot(store, learner, publish, weight_of):
    publish_next(publish, store, 2, finished=True)
    store.faults.truncate(100, times=1, key_contains="2-0/shard")
    with pytest.warns(CodistillWarning):
        step(learner, 1)
    step(learner, 2)
    assert weight_of(learner, "b") == 2.0


def test_one_peer_that_cannot_be_read_does_not_make_the_others_rarer(store, join, publish, weight_of):
    publish(store, "b", [1])
    publish(store, "c", [1])
    exchange = join(store, "a", peers=["a", "b", "c"], topology="all")
    publish(store, "b", [2], incarnation=2)
    store.faults.vanish(key_contains="b/snapshots/2-0/shard")
    publish(store, "c", [3], incarnation=3)
    with pytest.warns(CodistillWarning, match="'b'"):
        step(exchange, 3)
    for number in range(4, 9):
        publish(store, "c", [number], incarnation=number)
        step(exchange, number)
        assert weight_of(exchange, "c") == float(number)
    assert weight_of(exchange, "b") == 1.0


@pytest.mark.parametrize("topology", ["ring", "all"])
def test_every_outage_is_said_also_of_peers_that_are_no_teachers(store, join, publish, topology):
    for peer in "bc":
        publish(store, peer, [1])
    membership = Membership(when_stale="keep")
    exchange = join(store, "a", peers=["a", "b", "c"], topology=topology, membership=membership)
    for outage in range(3):
        store.faults.fail("read", key_contains="latest")
        with pytest.warns(CodistillWarning, match="Nothing new was taken") as caught:
            step(exchange, *range(10 * outage + 1, 10 * outage + 6))
        assert len(caught) == 1
        store.faults.clear()
        step(exchange, *range(10 * outage + 6, 10 * outage + 11))


def test_trouble_that_comes_back_is_said_again(store, learner, publish):
    for number, fails in ((1, True), (2, False), (3, True)):
        publish_next(publish, store, number)
        if fails:
            store.faults.flip_bit(key_contains=f"{number}-0/shard")
            with pytest.warns(CodistillWarning, match="Nothing new was taken"):
                step(learner, number)
        else:
            step(learner, number)


def test_a_damaged_pointer_is_warned_of_and_the_teacher_stays(store, learner, publish, weight_of):
    store.write("b/latest.json", b'{"body": "')
    with pytest.warns(CodistillWarning, match="'b' at step 1: .*pointer") as caught:
        step(learner, 1, 2)
    assert len(caught) == 1
    assert weight_of(learner, "b") == 1.0
    publish_next(publish, store, 3)
    step(learner, 3)
    assert weight_of(learner, "b") == 3.0


@pytest.mark.parametrize("peers", [None, ["a", "b"]])
def test_a_newcomer_that_cannot_be_read_is_warned_of_once(store, join, publish, peers):
    exchange = join(store, "a", peers=peers)
    publish(store, "b", [1], run_id="dead")
    with pytest.warns(CodistillWarning, match="'b' at step 1: .* must be of run") as caught:
        step(exchange, 1, 2)
    assert len(caught) == 1


def test_a_snapshot_of_another_run_is_refused(store, learner, publish, weight_of):
    publish_next(publish, store, 2, run_id="dead")
    with pytest.warns(CodistillWarning, match="must be of run .*, got dead") as caught:
        step(learner, 1, 2)
    assert len(caught) == 1
    assert weight_of(learner, "b") == 1.0


def test_a_snapshot_of_another_architecture_is_refused(store, learner, publish, weight_of, make_model):
    publish_next(publish, store, 2, model=make_model(classes=7))
    with pytest.warns(CodistillWarning, match=r"does not fit this model.*build=") as caught:
        step(learner, 1, 2)
    assert len(caught) == 1
    assert weight_of(learner, "b") == 1.0
    assert store.count("read", key_contains="2-0/shard") == 0


def test_a_snapshot_that_is_too_large_is_refused_before_its_download(store, join, publish, make_model):
    exchange = join(store, "a", snapshots=SnapshotOptions(max_bytes=20))
    publish(store, "b", [1])
    with pytest.warns(CodistillWarning, match="must be at most 20 bytes"):
        step(exchange, 1)
    assert dict(exchange.teachers) == {}
    assert store.count("read", key_contains="b/snapshots/0-0/shard") == 0


def test_by_default_four_times_the_students_size_is_allowed_and_a_mebibyte(store, join, publish, make_model):
    exchange = join(store, "a", teachers=TeacherOptions(build=lambda info: nn.Linear(4, 60_000)))
    publish(store, "b", [1], model=nn.Linear(4, 60_000))  # 1.2 MB
    with pytest.warns(CodistillWarning, match="must be at most 1048576 bytes"):
        step(exchange, 1)


def test_a_snapshot_that_vanishes_stays_the_former_teacher(store, learner, publish, weight_of):
    publish_next(publish, store, 2)
    store.faults.vanish(key_contains="b/snapshots/2-0/")
    with pytest.warns(CodistillWarning, match="'b' at step 1: .*vanish") as caught:
        step(learner, 1, 2)
    assert len(caught) == 1
    assert weight_of(learner, "b") == 1.0
    store.faults.clear()
    step(learner, 3, 4)  # it lets an interval pass, as the store has failed twice
    assert weight_of(learner, "b") == 2.0


class Busy(MemoryStore):
    """Something happens in it just before a key is read for the first time."""

    def __init__(self):
        super().__init__()
        self.happens_before_reading = {}

    @override
    def _read(self, key, *, max_bytes, start):
        self.happens_before_reading.pop(key, lambda: None)()
        return super()._read(key, max_bytes=max_bytes, start=start)


@pytest.mark.parametrize("document", ["manifest.json", "shard-00001-of-00001.safetensors"])
def test_a_snapshot_that_is_replaced_while_it_is_read_gives_the_new_one(join, publish, weight_of, document):
    store = Busy()
    exchange = join(store, "a")
    publish(store, "b", [1])

    def replace():
        publish(store, "b", [2], incarnation=1)
        store.delete(f"b/snapshots/0-0/{document}")

    store.happens_before_reading[f"b/snapshots/0-0/{document}"] = replace
    step(exchange, 1)
    assert weight_of(exchange, "b") == 2.0


def test_a_store_that_is_away_for_a_while_is_said_once(store, learner, publish, weight_of):
    publish_next(publish, store, 2)
    for verb in ("read", "write", "create", "delete", "list_names"):
        store.faults.fail(verb)
    with pytest.warns(CodistillWarning) as caught:
        step(learner, 1, 2, 3)
    assert weight_of(learner, "b") == 1.0
    store.faults.clear()
    step(learner, 4)
    assert weight_of(learner, "b") == 2.0
    assert learner.counters.publishes == 1
    assert [str(warning.message).count("Training goes on") for warning in caught] == [1]


def test_a_store_that_is_away_for_peers_without_names_is_survived(store, join, publish, weight_of):
    publish(store, "b", [1])
    exchange = join(store, "a")
    for verb in ("read", "write", "list_names"):
        store.faults.fail(verb)
    with pytest.warns(CodistillWarning):
        step(exchange, 1)
    assert weight_of(exchange, "b") == 1.0
    store.faults.clear()
    publish(store, "b", [2], incarnation=1)
    step(exchange, 2)
    assert weight_of(exchange, "b") == 2.0


def test_a_pointer_that_cannot_be_read_is_warned_of_once(store, learner, publish, weight_of):
    store.faults.fail("read", key_contains="b/latest")
    with pytest.warns(CodistillWarning, match="Nothing new was taken from peer 'b'") as caught:
        step(learner, 1, 2)
    assert len(caught) == 1
    assert weight_of(learner, "b") == 1.0


def test_a_pointer_that_is_gone_leaves_the_teacher(store, join, publish, weight_of):
    publish(store, "b", [1])
    exchange = join(store, "a")
    store.faults.vanish(key_contains="b/latest")  # such as an empty mount point
    step(exchange, 1)
    assert weight_of(exchange, "b") == 1.0


def test_a_joiner_is_picked_up(store, join, publish, weight_of):
    exchange = join(store, "a", topology="all")
    step(exchange, 1)
    assert dict(exchange.teachers) == {}
    publish(store, "b", [1])
    step(exchange, 2)
    assert list(exchange.teachers) == ["b"]
    publish(store, "c", [2])
    step(exchange, 3)
    assert list(exchange.teachers) == ["b", "c"]
    assert weight_of(exchange, "c") == 2.0


def test_a_joiner_changes_the_ring(store, join, publish):
    publish(store, "b", [1])
    exchange = join(store, "a")
    publish(store, "c", [2])
    step(exchange, 1)
    assert list(exchange.teachers) == ["c"]


def test_a_peer_that_has_left_stays_a_teacher(store, join, weight_of, make_model):
    leaver = join(store, "b", model=make_model(4.0))
    leaver.step(Progress(step=1))
    exchange = join(store, "a")
    leaver.close(Progress(step=1), publish=False)
    for number in range(1, 6):
        step(exchange, number)
    assert weight_of(exchange, "b") == 4.0
    assert exchange.teachers["b"].age_steps == 5


def test_a_finished_peer_stays_a_teacher(store, join, weight_of, make_model):
    leaver = join(store, "b", model=make_model(4.0))
    leaver.close(Progress(step=1), publish=True)
    exchange = join(store, "a")
    step(exchange, 1)
    assert weight_of(exchange, "b") == 4.0


def test_no_more_teachers_than_allowed(store, join, publish):
    for peer in "bcdefg":
        publish(store, peer, [1])
    with pytest.warns(CodistillWarning, match="max_teachers: d, e, f, g will not be learnt from") as caught:
        exchange = join(store, "a", topology="all", teachers=TeacherOptions(max_teachers=2))
    assert len(caught) == 1
    step(exchange, 1)  # a second warning would be an error
    assert list(exchange.teachers) == ["b", "c"]


STRICT = {"membership": Membership(start_with_peers=1)}


def test_at_the_start_a_snapshot_that_cannot_be_used_is_raised_if_peers_are_asked_for(
    store, join, publish, make_model
):
    publish(store, "b", [1], model=make_model(classes=7))
    with pytest.raises(SnapshotError, match="does not fit this model"):
        join(store, "a", **STRICT)


def test_a_joiner_starts_beside_a_snapshot_that_cannot_be_used(store, join, publish, make_model):
    publish(store, "b", [1], model=make_model(classes=7))
    with pytest.warns(CodistillWarning, match="does not fit this model"):
        exchange = join(store, "a", topology="all")
    publish(store, "c", [2])
    step(exchange, 1)
    assert list(exchange.teachers) == ["c"]


@pytest.mark.parametrize("peers", [None, ["a", "b"]])
def test_a_joiner_starts_beside_a_pointer_that_cannot_be_read(store, join, publish, peers):
    publish(store, "b", [1])
    store.faults.fail("read", times=1, key_contains="b/latest")
    with pytest.warns(CodistillWarning, match="Nothing new was taken from peer 'b' at step 0"):
        exchange = join(store, "a", peers=peers)
    step(exchange, 1)
    assert list(exchange.teachers) == ["b"]


def test_start_with_peers_publishes_step_0_and_waits(store, join, make_model):
    options = {"membership": Membership(start_with_peers=2, start_timeout_s=30)}

    def start(peer):
        exchange = join(store, peer, model=make_model(float(ord(peer))), clock=time, **options)
        return (
            exchange.counters.publishes,
            list(exchange.teachers),
            [info.step for info in exchange.teachers.values()],
        )

    assert run_peers(start, "abc") == {"a": (1, ["c"], [0]), "b": (1, ["a"], [0]), "c": (1, ["b"], [0])}


def test_start_with_peers_gives_up_in_time(store, join, publish):
    publish(store, "b", [0], model=None)
    clock = FakeClock()
    message = r"start_with_peers must be met within 60 s, got 1 of 2 other peers: b\."
    with pytest.raises(PeerMissingError, match=message) as caught:
        join(store, "a", clock=clock, membership=Membership(start_with_peers=2, start_timeout_s=60))
    assert caught.value.step == 0
    assert clock.monotonic() == pytest.approx(60.0)


def test_start_with_peers_tells_why_a_peer_does_not_count(store, join):
    store.write("b/latest.json", b"{}")
    with pytest.raises(PeerMissingError, match=r"pointer at 'b/latest.json'"):
        join(store, "a", clock=FakeClock(), membership=Membership(start_with_peers=1, start_timeout_s=1))


# What the reader itself finds


class Search:
    """A reader of one peer, and what its student knows."""

    def __init__(self, store, *, peers=None, topology=None, max_teachers=4, fading=None, check_fits=None):
        self.clock = FakeClock()
        self.heartbeat = Heartbeat(
            store, Life(run_id="c0ffee", peer="a", incarnation=0, interval_steps=1, metadata={})
        )
        fetcher = Fetcher(store, run_id=None, max_bytes=None)
        finder = PeerFinder(
            store,
            fetcher,
            peer="a",
            peers=peers,
            topology=topology or All(),
            max_teachers=max_teachers,
        )
        self.reader = NewestReader(
            finder,
            fetcher,
            self.heartbeat,
            Newcomers(store, fetcher, clock=self.clock),
            fading=fading or Fading(max_age_steps=10, when_stale="drop"),
            check_fits=check_fits or (lambda manifest: None),
        )
        self.roster = Roster()
        self.held = {}

    def look(self, step=0, *, quarantined=(), **progress):
        look = Look(
            progress=Progress(step=step, **progress),
            roster=self.roster.copy(),
            held=dict(self.held),
            quarantined=frozenset(quarantined),
        )
        sighting = self.reader.look(look)
        self.roster = sighting.roster
        self.held |= {arrival.manifest.peer: arrival.manifest.order for arrival in sighting.arrivals}
        return sighting


def arrived(sighting):
    return {arrival.manifest.peer: arrival.manifest.step for arrival in sighting.arrivals}


def test_a_look_changes_nothing_that_the_student_knows(store, publish):
    publish(store, "b", [1])
    look = Look(progress=Progress(), roster=Roster(), held={})
    sighting = Search(store).reader.look(look)
    assert dict(look.roster.peers) == {}
    assert list(sighting.roster.peers) == ["b"]
    assert sighting.look is look


def test_a_look_that_the_store_hinders_knows_nothing_of_who_is_there(store, publish):
    publish(store, "b", [1])
    search = Search(store)
    search.look()
    store.faults.fail("list_names", times=1)
    sighting = search.look(1)
    assert isinstance(sighting.store_error, StoreError)
    assert (sighting.wanted, sighting.arrivals) == (None, ())
    assert dict(sighting.roster.peers) == dict(sighting.look.roster.peers)


def test_what_is_read_is_told_before_and_no_more_afterwards(store, publish):
    publish(store, "b", [1])
    publish(store, "c", [2])
    search = Search(store)
    search.look()
    calls = [(call.verb, call.key) for call in store.calls]
    told = calls.index(("write", "a/status.json"))
    assert told < calls.index(("read", "b/snapshots/0-0/shard-00001-of-00001.safetensors"))
    search.heartbeat.beat()
    status = Status.from_json(store.read("a/status.json", max_bytes=10**4), key="a/status.json")
    assert status.reading == {}


@pytest.mark.parametrize(("own_samples", "is_taken"), [(0, True), (60, True), (61, False)])
def test_a_peer_with_less_than_half_of_the_students_samples_does_not_teach_yet(
    store, publish, own_samples, is_taken
):
    publish(store, "b", [3])  # 30 samples
    sighting = Search(store).look(samples=own_samples)
    assert arrived(sighting) == ({"b": 3} if is_taken else {})
    assert sighting.too_young == (() if is_taken else ("b",))
    assert store.count("read", key_contains="shard") == is_taken


def test_a_peer_that_has_finished_teaches_however_young_it_is(store, publish):
    publish(store, "b", [3], finished=True)
    assert arrived(Search(store).look(samples=10**6)) == {"b": 3}


def test_a_young_peer_is_said_once_and_teaches_when_it_has_grown(store, join, publish):
    exchange = join(store, "a")
    # Who starts a little later is nothing to speak of.
    for life in range(2):
        publish(store, "b", [1], incarnation=life)
        step(exchange, 2 * life + 1, 2 * life + 2, samples=100)
    assert store.count("read", key_contains="manifest") == 2
    publish(store, "b", [2], incarnation=2)
    with pytest.warns(
        CodistillWarning, match="Nothing is learnt from peer 'b' yet: at step 5 .* this peer's 100 samples"
    ) as caught:
        step(exchange, 5, 6, samples=100)
    assert len(caught) == 1
    publish(store, "b", [6], incarnation=3)
    exchange.step(Progress(step=7, samples=100))
    assert exchange.teachers["b"].step == 6


def test_of_a_peer_that_begins_again_it_is_said_that_nothing_newer_is_learnt(store, join, publish):
    publish(store, "b", [6])
    exchange = join(store, "a")
    step(exchange, 1, samples=100)
    assert exchange.teachers["b"].step == 6
    for life in (1, 2):
        publish(store, "b", [1], incarnation=life)
        step(exchange, 2 * life, 2 * life + 1, samples=100)
    publish(store, "b", [1], incarnation=3)
    with pytest.warns(
        CodistillWarning, match="Nothing newer is learnt from peer 'b' yet: at step 6 its newest"
    ):
        step(exchange, 6, 7, samples=100)
    assert exchange.teachers["b"].step == 6


def test_nan_is_noticed_and_not_downloaded_again(store, publish, make_model):
    publish(store, "b", [1], model=make_model(float("nan")))
    publish(store, "c", [1])
    search = Search(store)
    sighting = search.look()
    assert sighting.not_finite == {"b": "'bias' of its snapshot at step 1 holds NaN"}
    assert arrived(sighting) == {"c": 1}
    assert search.look(1).not_finite == {}
    assert store.count("read", key_contains="b/snapshots/0-0/shard") == 1


def test_minus_infinity_is_a_number(store, publish, make_model):
    publish(store, "b", [1], model=make_model(float("-inf")))
    assert arrived(Search(store).look()) == {"b": 1}


def test_out_of_quarantine_leads_only_a_better_loss_that_the_manifest_tells(store, join):
    other = join(store, "b")
    other.step(Progress(step=1, task_loss=9.0))
    search = Search(store)
    sighting = search.look(quarantined="b", task_loss=1.0)
    assert (arrived(sighting), sighting.errors, sighting.too_young) == ({}, {}, ())
    assert store.count("read", key_contains="shard") == 0
    # Before, it is read to see whether b has trained.
    assert store.count("read", key_contains="manifest") == 2
    search.look(1, quarantined="b", task_loss=1.0)
    assert store.count("read", key_contains="manifest") == 2
    other.step(Progress(step=2, task_loss=1.1))
    assert arrived(search.look(2, quarantined="b", task_loss=1.0)) == {"b": 2}


def test_outside_of_quarantine_a_high_loss_is_no_hindrance(store, join):
    join(store, "b").step(Progress(step=1, task_loss=9.0))
    assert arrived(Search(store).look(task_loss=1.0)) == {"b": 1}


def test_an_older_pointer_that_is_written_again_is_ignored(store, publish):
    publish(store, "b", [1])
    old = store.read("b/latest.json", max_bytes=10**4)
    publish(store, "b", [2], incarnation=1)
    search = Search(store)
    assert arrived(search.look(5)) == {"b": 2}
    search.held.clear()  # as a student that has lost its teacher
    store.write("b/latest.json", old)
    sighting = search.look(6)
    assert (arrived(sighting), sighting.wanted, sighting.errors) == ({}, ("b",), {})
    assert sighting.roster.peers["b"].order == (1, 0)


def test_a_snapshot_is_as_old_as_the_first_look_at_it(store, publish):
    publish(store, "b", [1])
    search = Search(store)
    store.faults.fail("read", times=1, key_contains="shard")
    assert arrived(search.look(5)) == {}
    (arrival,) = search.look(9).arrivals
    assert arrival.first_seen_step == 5


def test_peers_that_have_faded_out_are_left_out_of_the_ring(store, publish):
    for peer in "bc":
        publish(store, peer, [1])
    search = Search(store, topology=Ring())
    assert search.look(0).wanted == ("c",)
    assert search.look(10).wanted == ("c",)
    publish(store, "b", [2], incarnation=1)
    assert search.look(11).wanted == ("b",)
    publish(store, "c", [2], incarnation=1)
    sighting = search.look(12)
    assert (sighting.wanted, arrived(sighting)) == (("c",), {"c": 2})


def test_named_peers_stay_in_the_ring_however_silent(store, publish):
    publish(store, "c", [1])
    search = Search(store, peers=("a", "b", "c"), topology=Ring())
    for step in (0, 1000):
        assert search.look(step).wanted == ("c",)


def test_a_peer_that_has_finished_stays_in_the_ring(store, publish):
    publish(store, "c", [1], finished=True)
    publish(store, "b", [1])
    search = Search(store, topology=Ring())
    search.look(0)
    assert search.look(1000).wanted == ("c",)


def test_that_a_peer_has_finished_is_found_out_by_a_student_that_has_never_read_it(store, publish):
    publish(store, "c", [1], finished=True)
    publish(store, "b", [1])
    search = Search(store, topology=Ring())
    # Seen in an earlier life, which had not read its manifest.
    search.roster = Roster({"c": Sighted((0, 0), 0), "b": Sighted((0, 0), 0)})
    search.held = {"c": (0, 0)}
    for step in (1000, 1001):
        assert search.look(step).wanted == ("c",)
    assert store.count("read", key_contains="manifest") == 2  # once each


def test_whether_a_peer_has_finished_is_asked_again_if_the_store_fails(store, publish):
    publish(store, "c", [1], finished=True)
    search = Search(store, topology=Ring())
    search.roster = Roster({"c": Sighted((0, 0), 0)})
    search.held = {"c": (0, 0)}
    store.faults.fail("read", times=1, key_contains="manifest")
    assert search.look(1000).wanted == ()
    assert search.look(1001).wanted == ("c",)


def test_teachers_for_which_there_is_no_room_are_named(store, publish):
    for peer in "bcd":
        publish(store, peer, [1])
    sighting = Search(store, max_teachers=2).look()
    assert (sighting.wanted, sighting.left_out) == (("b", "c"), ("d",))
    assert sorted(arrived(sighting)) == ["b", "c"]
    assert store.count("read", key_contains="d/snapshots") == 0


def test_a_snapshot_that_does_not_fit_is_passed_over_before_its_download(store, publish):
    def refuse(manifest):
        raise SnapshotMismatchError("It does not fit.", peer=manifest.peer)

    publish(store, "b", [1])
    search = Search(store, check_fits=refuse)
    assert isinstance(search.look().errors["b"], SnapshotMismatchError)
    assert search.look(1).errors == {}
    assert store.count("read", key_contains="manifest") == 1
    assert store.count("read", key_contains="shard") == 0


def test_what_the_store_could_not_give_is_tried_again(store, publish):
    publish(store, "b", [1])
    search = Search(store)
    store.faults.fail("read", times=1, key_contains="shard")
    assert isinstance(search.look().errors["b"], StoreError)
    assert arrived(search.look(1)) == {"b": 1}
