import pytest
import torch
from typing_extensions import override

from codistill.errors import StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.fetcher import load_snapshot
from codistill.exchange.checkpoint.inspection import inspect_run
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.lives import claim_life, open_run
from codistill.exchange.checkpoint.pruning import prune
from codistill.exchange.checkpoint.publisher import Publisher
from codistill.snapshots.codec import encode
from codistill.snapshots.keys import manifest_key, shard_key, shard_name, status_key
from codistill.snapshots.status import Status
from codistill.stores.directory import DirectoryStore
from codistill.stores.memory import MemoryStore
from codistill.testing.clock import FakeClock
from codistill.testing.faulty_store import FaultyStore

SHARD = shard_name(1, 1)


@pytest.fixture
def store():
    return FaultyStore(MemoryStore())


def publish(store, peer, *steps, state="left"):
    """Let a new life publish, and leave."""
    incarnation = claim_life(store, peer, after=None)
    life = Life(run_id=open_run(store), peer=peer, incarnation=incarnation, interval_steps=1, metadata={})
    publisher = Publisher(store, life)
    for step in steps:
        publisher.publish(
            encode({"weight": torch.full((2, 3), float(step))}), Progress(step=step), finished=False
        )
    tell(store, peer, state=state, incarnation=incarnation)
    return publisher


def tell(store, peer, *, state="left", heartbeat=1, incarnation=0, reading=None):
    status = Status(
        run_id=open_run(store),
        peer=peer,
        incarnation=incarnation,
        heartbeat=heartbeat,
        step=0,
        samples=0,
        task_loss=None,
        distillation_loss=None,
        state=state,
        reading=reading or {},
    )
    store.write(status_key(peer), status.to_json())


def leave_orphans(store, peer="a"):
    """Leave a torn snapshot, 0-2, and one that nothing leads to any more, 0-1, beside 0-3 and 0-4."""
    publish(store, peer, *range(5))
    for sequence in (0, 2):
        store.delete(manifest_key(peer, 0, sequence))
    store.delete(shard_key(peer, 0, 0, SHARD))


def folders(store, peer="a"):
    return store.list_names(f"{peer}/snapshots", limit=100)


class LivingClock(FakeClock):
    """A clock during whose sleeps something happens."""

    def __init__(self, happen, *, at=1):
        super().__init__()
        self.happen = happen
        self.at = at

    @override
    def sleep(self, seconds):
        super().sleep(seconds)
        if len(self.sleeps) == self.at:
            self.happen()


@pytest.mark.parametrize("kind", ["memory", "directory"])
def test_orphans_go_and_all_else_stays(tmp_path, kind):
    store = MemoryStore() if kind == "memory" else DirectoryStore(tmp_path / "store")
    leave_orphans(store)
    publish(store, "b", 1)
    store.write("a/snapshots/0-4/left.tmp", b"x")
    clock = FakeClock()
    pruned = prune(store, inspect_run(store), clock=clock)
    assert [orphan.order for orphan in pruned.deleted] == [(0, 1), (0, 2), (0, 4)]
    assert pruned.spared == ()
    assert clock.sleeps == []
    assert folders(store) == ["0-3", "0-4"]
    found = inspect_run(store)
    assert (found.problems, found.orphans) == ((), ())
    assert load_snapshot(store, "a")[1].step == 4
    assert load_snapshot(store, "b")[1].step == 1


def test_the_manifest_goes_first(store):
    leave_orphans(store)
    found = inspect_run(store)
    before = len(store.calls)
    prune(store, found, clock=FakeClock())
    deleted = [call.key for call in store.calls[before:] if call.verb == "delete"]
    assert deleted[:2] == [manifest_key("a", 0, 1), shard_key("a", 0, 1, SHARD)]


def test_nothing_but_deletes_is_done(store):
    leave_orphans(store)
    found = inspect_run(store)
    before = len(store.calls)
    prune(store, found, clock=FakeClock())
    assert {call.verb for call in store.calls[before:]} == {"read", "list_names", "delete"}


@pytest.mark.parametrize("beat", [1, 2, 3])
def test_a_peer_whose_heartbeat_moves_while_it_is_watched_is_spared(store, beat):
    leave_orphans(store)
    leave_orphans(store, "b")
    tell(store, "a", state="running")
    clock = LivingClock(lambda: tell(store, "a", state="running", heartbeat=2), at=beat)
    pruned = prune(store, inspect_run(store), clock=clock)
    assert {orphan.peer for orphan in pruned.deleted} == {"b"}
    assert {spared.why for spared in pruned.spared} == {"peer 'a' lives"}
    assert folders(store) == ["0-1", "0-2", "0-3", "0-4"]
    assert clock.sleeps == [5.0] * beat


def test_a_peer_that_was_killed_is_not_spared_after_three_beats(store):
    leave_orphans(store)
    tell(store, "a", state="running")
    clock = FakeClock()
    pruned = prune(store, inspect_run(store), clock=clock)
    assert clock.sleeps == [5.0] * 3
    assert len(pruned.deleted) == 2


@pytest.mark.parametrize("happen", ["beat", "begin", "life"])
def test_a_peer_that_has_told_anything_since_it_was_inspected_is_spared(store, happen):
    leave_orphans(store)
    if happen == "begin":
        store.delete(status_key("a"))
    found = inspect_run(store)
    tell(store, "a", state="running", heartbeat=2, incarnation=int(happen == "life"))
    clock = FakeClock()
    assert prune(store, found, clock=clock).deleted == ()
    assert clock.sleeps == []


def test_a_peer_that_has_published_since_it_was_inspected_is_spared(store):
    publisher = publish(store, "a", 0)
    store.write(shard_key("a", 0, 1, SHARD), b"half of it")
    found = inspect_run(store)
    assert [orphan.order for orphan in found.orphans] == [(0, 1)]
    publisher.publish(encode({"weight": torch.ones(2, 3)}), Progress(step=1), finished=False)
    pruned = prune(store, found, clock=FakeClock())
    assert pruned.deleted == ()
    assert [spared.why for spared in pruned.spared] == ["peer 'a' has published since"]
    assert load_snapshot(store, "a")[1].step == 1


@pytest.mark.parametrize("state", ["running", "finished", "left"])
def test_what_somebody_says_to_be_reading_since_it_was_inspected_is_spared(store, state):
    leave_orphans(store)
    found = inspect_run(store)
    tell(store, "z", state=state, reading={"a": (0, 1)})
    pruned = prune(store, found, clock=FakeClock())
    assert [orphan.order for orphan in pruned.deleted] == [(0, 2)]
    assert [(spared.orphan.order, spared.why) for spared in pruned.spared] == [
        ((0, 1), "peer 'z' is reading it")
    ]
    assert folders(store) == ["0-1", "0-3", "0-4"]


def test_what_begins_to_be_read_while_heartbeats_are_watched_is_spared(store):
    leave_orphans(store)
    tell(store, "a", state="running")
    clock = LivingClock(lambda: tell(store, "z", reading={"a": (0, 1)}), at=3)
    pruned = prune(store, inspect_run(store), clock=clock)
    assert [orphan.order for orphan in pruned.deleted] == [(0, 2)]


@pytest.mark.parametrize("key", ["z/status.json", "a/status.json", "a/latest.json"])
def test_while_something_cannot_be_read_nothing_goes(store, key):
    leave_orphans(store)
    found = inspect_run(store)
    store.write(key, b"{}")
    pruned = prune(store, found, clock=FakeClock())
    assert pruned.deleted == ()
    assert [spared.orphan for spared in pruned.spared] == list(found.orphans)
    assert key in pruned.spared[0].why
    assert folders(store) == ["0-1", "0-2", "0-3", "0-4"]


def test_a_store_that_refuses_is_an_error_and_it_may_be_called_again(store):
    leave_orphans(store)
    found = inspect_run(store)
    store.faults.fail("delete", times=1, key_contains=SHARD)
    with pytest.raises(StoreError):
        prune(store, found, clock=FakeClock())
    assert len(prune(store, inspect_run(store), clock=FakeClock()).deleted) == 2
    assert folders(store) == ["0-3", "0-4"]


def test_a_run_without_orphans_is_left_alone(store):
    publish(store, "a", 1, state="running")
    clock = FakeClock()
    pruned = prune(store, inspect_run(store), clock=clock)
    assert (pruned.deleted, pruned.spared, clock.sleeps) == ((), (), [])
