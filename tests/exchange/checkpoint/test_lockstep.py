import time

import pytest
import torch

from codistill.errors import (
    CodistillWarning,
    PeerMismatchError,
    PeerMissingError,
    PeerTakenError,
    RunExistsError,
    SnapshotError,
    StoreError,
)
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint import Lockstep, Membership, load_snapshot
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.heartbeat import Heartbeat
from codistill.exchange.checkpoint.lives import claim_life, read_status
from codistill.snapshots.codec import encode
from codistill.testing.clock import FakeClock
from codistill.testing.peers import run_peers

PEERS = ["a", "b"]


@pytest.fixture
def lockstep(join):
    def join_lockstep(store, peer, **options):
        return join(store, peer, **{"peers": PEERS, "lockstep": Lockstep(timeout_s=20.0), **options})

    return join_lockstep


def step(exchange, number):
    exchange.step(Progress(step=number))


def fill(model, value):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def test_the_others_first_snapshots_are_waited_for(store, lockstep, weight_of, make_model):
    def start(peer):
        exchange = lockstep(store, peer, model=make_model(float(ord(peer))), clock=time)
        (teacher,) = exchange.teachers.values()
        return teacher.step, weight_of(exchange, teacher.peer)

    assert run_peers(start, PEERS) == {"a": (0, float(ord("b"))), "b": (0, float(ord("a")))}


def test_every_step_teaches_with_the_weights_of_that_step(store, lockstep, weight_of, make_model):
    peers, offsets = ["a", "b", "c"], {"a": 100.0, "b": 200.0, "c": 300.0}

    def train(peer):
        model = make_model(offsets[peer])
        exchange = lockstep(store, peer, model=model, peers=peers, topology="all", clock=time)
        seen = [{other: weight_of(exchange, other) for other in exchange.teachers}]
        for number in range(1, 6):
            fill(model, offsets[peer] + number)
            step(exchange, number)
            seen.append({other: weight_of(exchange, other) for other in exchange.teachers})
        return seen

    for peer, seen in run_peers(train, peers).items():
        assert seen == [
            {other: offsets[other] + number for other in peers if other != peer} for number in range(6)
        ]


def test_a_ring_of_three_teaches_along_the_ring(store, lockstep):
    def train(peer):
        exchange = lockstep(store, peer, peers=["a", "b", "c"], clock=time)
        step(exchange, 1)
        return {name: info.step for name, info in exchange.teachers.items()}

    assert run_peers(train, "abc") == {"a": {"c": 1}, "b": {"a": 1}, "c": {"b": 1}}


def test_nothing_happens_between_intervals(store, lockstep, publish):
    publish(store, "b", [0, 3], interval_steps=3)
    exchange = lockstep(store, "a", interval_steps=3)
    before = len(store.calls)
    step(exchange, 1)
    step(exchange, 2)
    assert len(store.calls) == before
    step(exchange, 3)
    assert exchange.teachers["b"].step == 3


def test_a_peer_that_does_not_start_is_named(store, lockstep):
    clock = FakeClock()
    with pytest.raises(PeerMissingError, match=r"Peer 'b' did not publish step 0 within 30\.0 s") as caught:
        lockstep(store, "a", clock=clock, lockstep=Lockstep(30.0))
    assert (caught.value.peer, caught.value.step) == ("b", 0)
    assert clock.monotonic() == pytest.approx(30.0)
    assert isinstance(caught.value, TimeoutError)


def test_a_peer_that_stops_is_named_with_the_step(store, lockstep, publish):
    publish(store, "b", [0, 1])
    clock = FakeClock()
    exchange = lockstep(store, "a", clock=clock, lockstep=Lockstep(timeout_s=30.0))
    step(exchange, 1)
    with pytest.raises(PeerMissingError, match="Peer 'b' did not publish step 2") as caught:
        step(exchange, 2)
    assert (caught.value.peer, caught.value.step) == ("b", 2)
    assert exchange.teachers["b"].step == 1


def test_a_peer_that_was_cut_off_and_rejoins_is_taught_by_the_steps_it_had(store, lockstep, publish):
    publish(store, "b", [0, 1, 2])
    first = lockstep(store, "a")
    step(first, 1)
    first.close(Progress(step=1), publish=False)
    with pytest.raises(RunExistsError, match=r"rejoin=True"):
        lockstep(store, "a")
    second = lockstep(store, "a", membership=Membership(rejoin=True))
    taught = [second.teachers["b"].step]
    for number in (1, 2):
        step(second, number)
        taught.append(second.teachers["b"].step)
    assert taught == [0, 1, 2]
    info = load_snapshot(store, "a")[1]
    assert (info.incarnation, info.step) == (1, 2)


def test_the_first_long_wait_is_logged(store, lockstep, publish, caplog):
    publish(store, "b", [0, 1])
    exchange = lockstep(store, "a", clock=FakeClock(), lockstep=Lockstep(timeout_s=30.0))
    assert caplog.messages == []
    step(exchange, 1)
    for _ in range(2):
        with pytest.raises(PeerMissingError):
            step(exchange, 2)
    said = "Waiting for peer 'b' to publish step 2, for up to 30 s (lockstep); not said again."
    assert caplog.messages == [said]


def test_the_timeout_is_for_all_peers_together(store, lockstep, publish):
    clock = FakeClock()
    publish(store, "c", [0])
    with pytest.raises(PeerMissingError, match="Peer 'b'"):
        lockstep(store, "a", peers=["a", "b", "c"], clock=clock, lockstep=Lockstep(timeout_s=30.0))
    assert clock.monotonic() == pytest.approx(30.0)


def test_peers_that_do_not_teach_are_waited_for_too(store, lockstep, publish):
    publish(store, "c", [0])  # the teacher of a in this ring
    with pytest.raises(PeerMissingError, match="Peer 'b'"):
        lockstep(store, "a", peers=["a", "b", "c"], clock=FakeClock())


def test_unequal_intervals_are_refused(store, lockstep, publish):
    publish(store, "b", [0], interval_steps=10)
    message = "interval_steps must be the same for all peers in lockstep, got 5 here and 10 at peer 'b'"
    with pytest.raises(PeerMismatchError, match=message) as caught:
        lockstep(store, "a", interval_steps=5)
    assert caught.value.peer == "b"


def test_a_peer_that_is_ahead_teaches_with_its_older_snapshots(store, lockstep, publish, weight_of):
    publish(store, "b", [0, 1, 2, 3])
    clock = FakeClock()
    exchange = lockstep(store, "a", clock=clock)
    seen = [weight_of(exchange, "b")]
    for number in (1, 2, 3):
        step(exchange, number)
        seen.append(weight_of(exchange, "b"))
    assert seen == [0.0, 1.0, 2.0, 3.0]
    assert clock.sleeps == []


def test_walking_back_goes_through_earlier_lives(store, lockstep, publish, weight_of, make_model):
    first = publish(store, "b", [0, 1])
    resumed_after = first.previous
    # What follows in that life was not in the state that b was resumed from, and is not in its past.
    first.publish(encode(make_model(99.0).state_dict()), Progress(step=2), finished=False)
    publish(store, "b", [2, 3], incarnation=1, previous=resumed_after)
    exchange = lockstep(store, "a", clock=FakeClock())
    seen = [(0, 0, weight_of(exchange, "b"))]
    for number in (1, 2, 3):
        step(exchange, number)
        info = exchange.teachers["b"]
        seen.append((info.incarnation, info.sequence, weight_of(exchange, "b")))
    assert seen == [(0, 0, 0.0), (0, 1, 1.0), (1, 0, 2.0), (1, 1, 3.0)]


def test_a_peer_without_a_snapshot_of_that_step_is_not_waited_for(store, lockstep, publish):
    publish(store, "b", [0, 4])
    clock = FakeClock()
    exchange = lockstep(store, "a", clock=clock)
    with pytest.raises(PeerMissingError, match="'b' is at step 4 and has no snapshot of step 1") as caught:
        step(exchange, 1)
    assert (caught.value.peer, caught.value.step) == ("b", 1)
    assert clock.sleeps == []


def test_a_peer_that_began_later_than_this_step_is_not_waited_for(store, lockstep, publish):
    publish(store, "b", [4, 5])
    clock = FakeClock()
    with pytest.raises(PeerMissingError, match="'b' is at step 5 and has no snapshot of step 0"):
        lockstep(store, "a", clock=clock)
    assert clock.sleeps == []


def test_the_last_snapshot_of_a_finished_peer_serves(store, lockstep, publish, weight_of):
    publish(store, "b", [0, 1, 2], finished=True)
    clock = FakeClock()
    exchange = lockstep(store, "a", clock=clock)
    seen = []
    for number in range(1, 5):
        step(exchange, number)
        seen.append(weight_of(exchange, "b"))
    assert seen == [1.0, 2.0, 2.0, 2.0]
    assert clock.sleeps == []


def test_a_peer_that_finishes_between_intervals_serves(store, lockstep, publish, weight_of):
    publish(store, "b", [0, 10, 13], interval_steps=10, finished=True)
    exchange = lockstep(store, "a", interval_steps=10, clock=FakeClock())
    step(exchange, 10)
    assert weight_of(exchange, "b") == 10.0
    step(exchange, 20)
    assert weight_of(exchange, "b") == 13.0


def test_the_teacher_of_a_finished_peer_ages(store, lockstep, publish):
    publish(store, "b", [0, 1], finished=True)
    exchange = lockstep(store, "a", clock=FakeClock())
    ages = []
    for number in range(1, 4):
        step(exchange, number)
        ages.append(exchange.teachers["b"].age_steps)
    assert ages == [0, 1, 2]


def test_the_last_snapshot_of_a_finished_peer_is_downloaded_once(store, lockstep, publish):
    publish(store, "b", [0, 1], finished=True)
    exchange = lockstep(store, "a", clock=FakeClock())
    for number in range(1, 4):
        step(exchange, number)
    assert store.count("read", key_contains="b/snapshots/0-1/shard") == 1
    assert exchange.counters.fetched == []


def test_a_finished_peer_that_comes_back_is_waited_for(store, lockstep, publish):
    publish(store, "b", [0, 1], finished=True)
    exchange = lockstep(store, "a", clock=FakeClock())
    step(exchange, 1)
    resumed = publish(store, "b", [], incarnation=1)
    Heartbeat(store, resumed.life).beat()
    with pytest.raises(PeerMissingError, match="'b' did not publish step 2"):
        step(exchange, 2)


def test_a_finished_peer_without_status_serves(store, lockstep, publish, weight_of):
    publish(store, "b", [0, 1], finished=True)
    exchange = lockstep(store, "a", clock=FakeClock())
    step(exchange, 5)
    assert weight_of(exchange, "b") == 1.0


def test_a_damaged_snapshot_is_raised(store, lockstep, publish):
    publish(store, "b", [0, 1])
    exchange = lockstep(store, "a")
    store.faults.flip_bit(key_contains="b/snapshots/0-1/shard")
    with pytest.raises(SnapshotError, match="'b'"):
        step(exchange, 1)
    assert exchange.teachers["b"].step == 0


@pytest.mark.parametrize("verb", ["read", "write"])
def test_a_store_that_fails_is_raised(store, lockstep, publish, verb):
    publish(store, "b", [0, 1])
    exchange = lockstep(store, "a")
    store.faults.fail(verb)
    with pytest.raises(StoreError):
        step(exchange, 1)


def test_all_snapshots_are_kept(store, lockstep, publish):
    publish(store, "b", range(7))
    exchange = lockstep(store, "a")
    for number in range(1, 7):
        step(exchange, number)
    assert len(store.list_names("a/snapshots", limit=100)) == 7


def test_a_resumed_peer_takes_the_very_snapshots_it_had(store, lockstep, publish, weight_of):
    publish(store, "b", [0, 1, 2, 3])
    exchange = lockstep(store, "a")
    step(exchange, 1)
    state = exchange.state_dict()
    step(exchange, 2)
    resumed = lockstep(store, "a", state=state, step=1)
    assert resumed.teachers["b"].step == 1
    assert weight_of(resumed, "b") == 1.0
    step(resumed, 2)
    assert weight_of(resumed, "b") == 2.0


def test_a_resumed_peer_publishes_after_the_snapshot_of_its_state(store, lockstep, publish):
    publish(store, "b", [0, 1, 2])
    exchange = lockstep(store, "a")
    step(exchange, 1)
    state = exchange.state_dict()
    step(exchange, 2)
    resumed = lockstep(store, "a", state=state, step=1)
    step(resumed, 2)
    # Peer b, resumed too, must find step 1 of a behind the new step 2, not the abandoned one.
    fetcher = Fetcher(store, run_id=None, max_bytes=None)
    newest = fetcher.manifest(fetcher.pointer("a").manifest)
    assert (newest.order, newest.step) == ((1, 0), 2)
    assert fetcher.manifest(newest.previous).order == (0, 1)


def test_a_saved_snapshot_that_is_gone_is_raised(store, lockstep, publish):
    publish(store, "b", [0, 1])
    exchange = lockstep(store, "a")
    state = exchange.state_dict()
    store.faults.vanish(key_contains="b/snapshots/0-0/")
    with pytest.raises(StoreError, match="0-0"):
        lockstep(store, "a", state=state)


def test_a_state_saved_when_a_peer_was_missing_resumes_with_what_was_missing(store, lockstep, publish):
    first = publish(store, "b", [0, 1])
    exchange = lockstep(store, "a", clock=FakeClock())
    step(exchange, 1)
    with pytest.raises(PeerMissingError, match="resume this run later from its state_dict"):
        step(exchange, 2)
    state = exchange.state_dict()
    publish(store, "b", [2], incarnation=1, previous=first.previous)
    # The next batch is learnt with the snapshots of step 2, as if nothing had happened.
    resumed = lockstep(store, "a", state=state, step=2, clock=FakeClock())
    assert resumed.teachers["b"].step == 2


@pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan")])
def test_a_timeout_must_be_positive(timeout_s):
    with pytest.raises(ValueError, match=f"timeout_s must be > 0, got {timeout_s}"):
        Lockstep(timeout_s=timeout_s)


def test_a_timeout_must_be_a_number():
    with pytest.raises(TypeError, match="timeout_s must"):
        Lockstep(timeout_s="30")


def test_no_warning_is_due_to_lockstep_itself(store, publish, lockstep, recwarn):
    publish(store, "b", [0])
    lockstep(store, "a")
    assert [warning for warning in recwarn if issubclass(warning.category, CodistillWarning)] == []


def test_a_teacher_whose_predictions_are_no_numbers_sits_out_an_interval(
    store, lockstep, publish, make_model
):
    first = publish(store, "b", [0], model=make_model(3e38))
    exchange = lockstep(store, "a", clock=FakeClock(), interval_steps=1)
    publish(store, "b", [1], model=make_model(3e38), incarnation=1, previous=first.previous)
    step(exchange, 1)
    (prediction,) = exchange.predict(torch.ones(2, 4), None).peers
    assert prediction.share == 0.0
    second = publish(store, "b", [2], incarnation=2, model=make_model(3e38), finished=True)
    with pytest.warns(CodistillWarning, match="'b' is not learnt from since step 2") as caught:
        step(exchange, 2)
    assert len(caught) == 1
    # Its new snapshot gets a chance, and is no better; that is not said again.
    exchange.predict(torch.ones(2, 4), None)
    step(exchange, 3)
    assert exchange.teachers["b"].is_quarantined
    assert exchange.predict(torch.ones(2, 4), None).peers == ()
    publish(store, "b", [4], incarnation=3, previous=second.previous)
    step(exchange, 4)
    assert not exchange.teachers["b"].is_quarantined


def test_a_name_that_is_taken_over_is_noticed_at_the_interval(store, lockstep, publish):
    publish(store, "b", [0, 1])
    exchange = lockstep(store, "a", clock=FakeClock())
    claim_life(store, "a", after=0)
    exchange.background.tick()
    before = store.count("write")
    with pytest.raises(PeerTakenError, match="taken over"):
        step(exchange, 1)
    assert store.count("write") == before


def test_the_heart_beats_while_others_are_waited_for(store, lockstep, publish):
    publish(store, "b", [0, 1])
    exchange = lockstep(store, "a", clock=FakeClock())
    before = read_status(store, "a").heartbeat
    exchange.background.tick()
    assert read_status(store, "a").heartbeat == before + 1
    step(exchange, 1)
    status = read_status(store, "a")
    assert (status.heartbeat, status.step, status.reading) == (before + 2, 1, {"b": (0, 1)})


def test_nothing_fades_in_lockstep(store, lockstep, publish):
    publish(store, "b", [0], interval_steps=50)
    with pytest.warns(CodistillWarning, match="max_age_steps has no effect in lockstep"):
        exchange = lockstep(
            store, "a", clock=FakeClock(), interval_steps=50, membership=Membership(max_age_steps=10)
        )
    for number in range(1, 50):
        exchange.step(Progress(step=number))
    assert exchange.teachers["b"].share == 1.0


def test_nan_in_a_snapshot_is_quarantined_at_every_interval_and_said_once(
    store, lockstep, publish, make_model
):
    publisher = publish(store, "b", [0])
    exchange = lockstep(store, "a", clock=FakeClock(), interval_steps=1)
    for number in (1, 2):
        publisher = publish(
            store,
            "b",
            [number],
            incarnation=number,
            model=make_model(float("nan")),
            previous=publisher.previous,
        )
        if number == 1:
            with pytest.warns(CodistillWarning, match="'b' is not learnt from since step 1: .* holds NaN"):
                step(exchange, number)
        else:
            step(exchange, number)
        assert exchange.teachers["b"].is_quarantined
        assert exchange.predict(torch.ones(2, 4), None).peers == ()
