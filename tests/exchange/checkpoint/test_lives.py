import threading

import pytest

from codistill.errors import PeerTakenError, RunExistsError, SnapshotFormatError, StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.heartbeat import Heartbeat
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.lives import (
    HEARTBEAT_S,
    check_name_is_free,
    check_new,
    claim_life,
    has_been_followed,
    open_run,
    read_status,
)
from codistill.stores.memory import MemoryStore
from codistill.testing.clock import FakeClock
from codistill.testing.peers import run_peers


def heartbeat(store, incarnation=0):
    life = Life(run_id="c0ffee", peer="a", incarnation=incarnation, interval_steps=5, metadata={})
    return Heartbeat(store, life)


class LivelyClock(FakeClock):
    """Something happens while somebody sleeps."""

    def __init__(self, *happenings):
        super().__init__()
        self._happenings = list(happenings)

    def sleep(self, seconds):
        super().sleep(seconds)
        if self._happenings:
            self._happenings.pop(0)()


# The run


def test_a_run_is_created_once(store):
    run_id = open_run(store)
    assert open_run(store) == run_id
    assert open_run(MemoryStore()) != run_id


def test_peers_that_come_at_once_open_one_run():
    store, barrier = MemoryStore(), threading.Barrier(4, timeout=30)

    def open_at_once(peer):
        barrier.wait()
        return open_run(store)

    assert len(set(run_peers(open_at_once, "abcd").values())) == 1


def test_a_run_of_a_newer_version_is_refused(store):
    store.write("run.json", b'{"format": 2, "run_id": "c0ffee"}')
    with pytest.raises(SnapshotFormatError, match="Upgrade codistill"):
        open_run(store)


def test_a_first_life_has_number_0(store):
    assert claim_life(store, "a", after=None) == 0


def test_a_life_follows_the_last_one_known(store):
    assert claim_life(store, "a", after=4) == 5


def test_lives_that_left_no_snapshot_count_too(store):
    for expected in range(3):
        assert claim_life(store, "a", after=None) == expected
    assert claim_life(store, "b", after=None) == 0


def test_jobs_that_claim_at_once_get_different_lives():
    store, barrier = MemoryStore(), threading.Barrier(4, timeout=30)

    def claim_at_once(job):
        barrier.wait()
        return claim_life(store, "a", after=None)

    assert sorted(run_peers(claim_at_once, "wxyz").values()) == [0, 1, 2, 3]


def test_an_old_run_is_not_trained_over(store, publish):
    publisher = publish(store, "a", [0, 7])
    manifest = Fetcher(store, run_id=None, max_bytes=None).manifest(publisher.previous)
    with pytest.raises(RunExistsError, match=r"'a' has published step 7 .*rejoin=True") as caught:
        check_new(manifest, store)
    assert (caught.value.peer, caught.value.step, caught.value.key) == ("a", 7, manifest.key)


def test_a_snapshot_of_step_0_is_none_to_protect(store, publish):
    publisher = publish(store, "a", [0])
    check_new(Fetcher(store, run_id=None, max_bytes=None).manifest(publisher.previous), store)


# A name


def test_a_name_nobody_has_used_is_free_at_once(store):
    clock = FakeClock()
    check_name_is_free(store, "a", clock=clock)
    assert clock.sleeps == []


@pytest.mark.parametrize("state", ["finished", "left"])
def test_a_name_whose_last_life_was_closed_is_free_at_once(store, state):
    heartbeat(store).end(state)
    clock = FakeClock()
    check_name_is_free(store, "a", clock=clock)
    assert clock.sleeps == []


def test_a_name_whose_heart_stands_still_is_free_after_three_beats(store, caplog):
    heartbeat(store).beat()
    clock = FakeClock()
    check_name_is_free(store, "a", clock=clock)
    assert caplog.messages == [
        "The last life of peer 'a' was not closed: its heartbeat is watched for up to 15 s, as two jobs must "
        "not have one name."
    ]
    assert clock.sleeps == [HEARTBEAT_S] * 3
    assert HEARTBEAT_S == 5.0


@pytest.mark.parametrize("quiet_beats", [0, 1, 2])
def test_a_name_whose_heart_beats_is_refused(store, quiet_beats):
    other = heartbeat(store)
    other.show(Progress(step=7), {})
    other.beat()
    clock = LivelyClock(*[lambda: None] * quiet_beats, other.beat)
    with pytest.raises(PeerTakenError, match=r"got 'a', which a job has at .*its heartbeat moves") as caught:
        check_name_is_free(store, "a", clock=clock)
    assert (caught.value.peer, caught.value.step, caught.value.key) == ("a", 7, "a/status.json")
    assert isinstance(caught.value, FileExistsError)
    assert len(clock.sleeps) == quiet_beats + 1


def test_a_name_that_somebody_else_takes_meanwhile_is_refused(store):
    heartbeat(store).beat()
    with pytest.raises(PeerTakenError):
        check_name_is_free(store, "a", clock=LivelyClock(heartbeat(store, incarnation=1).beat))


def test_a_job_that_ends_meanwhile_leaves_its_name(store):
    other = heartbeat(store)
    other.beat()
    clock = LivelyClock(lambda: other.end("left"))
    check_name_is_free(store, "a", clock=clock)
    assert len(clock.sleeps) == 1


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 99}'])
def test_a_status_that_cannot_be_read_takes_no_name(store, content):
    store.write("a/status.json", content)
    assert read_status(store, "a") is None
    check_name_is_free(store, "a", clock=FakeClock())


def test_a_store_that_does_not_tell_is_raised(store):
    store.faults.fail("read", key_contains="status")
    with pytest.raises(StoreError):
        check_name_is_free(store, "a", clock=FakeClock())


def test_a_life_is_followed_once_the_next_one_is_claimed(store):
    for incarnation in range(2):
        claim_life(store, "a", after=None)
        assert not has_been_followed(store, "a", incarnation)
    assert has_been_followed(store, "a", 0)
    assert not has_been_followed(store, "b", 0)


def test_whether_a_life_is_followed_is_not_guessed(store):
    store.faults.fail("read", key_contains="lives")
    with pytest.raises(StoreError):
        has_been_followed(store, "a", 0)
