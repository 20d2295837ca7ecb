import json

import pytest
import torch
from typing_extensions import override

from codistill.errors import StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint import inspection
from codistill.exchange.checkpoint.inspection import inspect_run
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.lives import claim_life, open_run
from codistill.exchange.checkpoint.publisher import Publisher
from codistill.snapshots.codec import encode
from codistill.snapshots.keys import life_key, manifest_key, pointer_key, shard_key, shard_name, status_key
from codistill.snapshots.manifest import CHUNK_BYTES, MAX_MANIFEST_BYTES
from codistill.snapshots.run import Run
from codistill.snapshots.signing import SigningKey
from codistill.snapshots.status import Status
from codistill.stores.memory import MemoryStore
from codistill.testing.faulty_store import FaultyStore

SHARD = shard_name(1, 1)
KEY = SigningKey(secret=bytes(32))


@pytest.fixture
def store():
    return FaultyStore(MemoryStore())


def begin_life(store, peer, *, previous=None, signing_key=None):
    """Return the publisher of a new life, which has told that it runs."""
    run_id = open_run(store)
    incarnation = claim_life(store, peer, after=None)
    tell(store, peer, incarnation=incarnation)
    life = Life(run_id=run_id, peer=peer, incarnation=incarnation, interval_steps=1, metadata={})
    return Publisher(store, life, previous=previous, signing_key=signing_key)


def publish(publisher, *steps):
    for step in steps:
        weights = {"weight": torch.full((2, 3), float(step))}
        publisher.publish(encode(weights), Progress(step=step, samples=step), finished=False)


def tell(store, peer, *, incarnation=0, reading=None, state="running", heartbeat=1, run_id=None):
    status = Status(
        run_id=run_id or open_run(store),
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


def remove(store, peer, *sequences, manifest=True, shard=True):
    for sequence in sequences:
        if manifest:
            store.delete(manifest_key(peer, 0, sequence))
        if shard:
            store.delete(shard_key(peer, 0, sequence, SHARD))


def alter(store, key, change=lambda content: content[:-1] + bytes([content[-1] ^ 1])):
    store.write(key, change(store.read(key, max_bytes=10**9)))


def problem_keys(found):
    return [problem.key for problem in found.problems]


def orphans(found):
    return {(orphan.peer, orphan.order): orphan.why for orphan in found.orphans}


def size_of(store, folder):
    names = store.list_names(folder, limit=100)
    return sum(len(store.read(f"{folder}/{name}", max_bytes=10**9)) for name in names)


def test_a_run_that_is_well_has_no_problems_and_no_orphans(store):
    publish(begin_life(store, "a"), 1, 2)
    publish(begin_life(store, "b"), 5)
    found = inspect_run(store)
    assert (found.problems, found.orphans) == ((), ())
    assert found.run_id == Run.from_json(store.read("run.json", max_bytes=1000)).run_id
    a, b = found.peers
    assert (a.peer, a.step, a.lives, a.snapshots, a.pointer.order) == ("a", 2, 1, 2, (0, 1))
    assert (b.peer, b.step, b.lives, b.snapshots, b.status.state) == ("b", 5, 1, 1, "running")
    assert a.size_bytes == size_of(store, "a/snapshots/0-0") + size_of(store, "a/snapshots/0-1")


def test_nothing_is_written(store):
    publish(begin_life(store, "a"), 1, 2)
    remove(store, "a", 0, shard=False)
    before = len(store.calls)
    inspect_run(store)
    assert {call.verb for call in store.calls[before:]} == {"read", "list_names"}


def test_a_peer_that_has_only_begun_is_well(store):
    begin_life(store, "a")
    found = inspect_run(store)
    assert (found.problems, found.orphans) == ((), ())
    assert (found.peers[0].pointer, found.peers[0].step, found.peers[0].size_bytes) == (None, None, 0)


def test_what_else_lies_in_the_store_is_none_of_ours(store):
    publish(begin_life(store, "a"), 1)
    store.write("a/notes.txt", b"mine")
    store.write("a/snapshots/README/x", b"mine")
    store.write("results/summary.json", b"mine")
    found = inspect_run(store)
    assert (found.problems, found.orphans) == ((), ())


@pytest.mark.parametrize("sequence", [0, 1, 2])
def test_every_snapshots_shards_are_verified(store, sequence):
    publish(begin_life(store, "a"), 1, 2, 3)
    key = shard_key("a", 0, sequence, SHARD)
    alter(store, key)
    found = inspect_run(store)
    (problem,) = found.problems
    assert (problem.peer, problem.key) == ("a", key)
    assert "another digest" in problem.what
    assert ("next snapshot replaces it" in problem.next_step) == (sequence == 2)
    assert found.orphans == ()


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: b""])
def test_a_shard_that_is_cut_is_a_problem(store, change):
    publish(begin_life(store, "a"), 1)
    alter(store, shard_key("a", 0, 0, SHARD), change)
    assert problem_keys(inspect_run(store)) == [shard_key("a", 0, 0, SHARD)]


def test_a_shard_that_is_missing_is_a_problem(store):
    publish(begin_life(store, "a"), 1)
    remove(store, "a", 0, manifest=False)
    found = inspect_run(store)
    assert problem_keys(found) == [shard_key("a", 0, 0, SHARD)]
    assert found.orphans == ()


def test_every_digest_of_a_shard_of_several_chunks_is_verified(store):
    publisher = begin_life(store, "a")
    weights = {"weight": torch.arange(CHUNK_BYTES // 4 + 10, dtype=torch.int32)}
    publisher.publish(encode(weights), Progress(step=1), finished=False)
    assert inspect_run(store).problems == ()
    alter(store, shard_key("a", 0, 0, SHARD))
    (problem,) = inspect_run(store).problems
    assert "chunk 1 at byte 8388608" in problem.what


@pytest.mark.parametrize("sequence", [0, 1])
def test_a_manifest_that_is_not_the_one_referred_to_is_a_problem(store, sequence):
    publish(begin_life(store, "a"), 1, 2)
    alter(store, manifest_key("a", 0, sequence), lambda content: content + b" ")
    found = inspect_run(store)
    (problem,) = found.problems
    assert problem.key == manifest_key("a", 0, sequence)
    assert "its digest differs" in problem.what


@pytest.mark.parametrize("content", [b"", b"{", b" " * 100, b'{"format": 99}'])
def test_a_manifest_that_cannot_be_used_is_a_problem(store, content):
    publish(begin_life(store, "a"), 1)
    store.write(manifest_key("a", 0, 0), content)
    found = inspect_run(store)
    assert set(problem_keys(found)) == {manifest_key("a", 0, 0)}
    assert found.orphans == ()
    assert found.peers[0].step is None


def test_a_manifest_that_the_pointer_leads_to_and_that_is_missing_is_a_problem(store):
    publish(begin_life(store, "a"), *range(5))
    remove(store, "a", 0)
    remove(store, "a", 4, shard=False)
    found = inspect_run(store)
    assert problem_keys(found) == [manifest_key("a", 0, 4)]
    assert "the pointer leads to it" in found.problems[0].what
    # Neither what is left of it nor its predecessors may go.
    assert found.orphans == ()


def test_a_damaged_pointer_is_a_problem_and_makes_no_orphans(store):
    publish(begin_life(store, "a"), 1, 2)
    remove(store, "a", 0, shard=False)
    store.write(pointer_key("a"), b"{}")
    found = inspect_run(store)
    assert problem_keys(found) == [pointer_key("a")]
    assert found.orphans == ()


def test_a_damaged_status_life_and_run_are_problems(store):
    publish(begin_life(store, "a"), 1)
    store.write(status_key("a"), b"{}")
    store.write(life_key("a", 0), b"[]")
    store.write("run.json", b"x" * 2000)
    found = inspect_run(store)
    assert problem_keys(found) == ["run.json", status_key("a"), life_key("a", 0)]
    assert (found.run_id, found.peers[0].status, found.peers[0].step) == (None, None, 1)


def test_a_run_document_that_is_missing_is_a_problem(store):
    publish(begin_life(store, "a"), 1)
    store.delete("run.json")
    assert problem_keys(inspect_run(store)) == ["run.json"]


def test_documents_of_another_run_are_problems(store):
    publish(begin_life(store, "a"), 1)
    store.write("run.json", Run(run_id="c0ffee").to_json())
    found = inspect_run(store)
    assert problem_keys(found) == [status_key("a"), pointer_key("a"), manifest_key("a", 0, 0)]
    assert all("c0ffee" in problem.what for problem in found.problems)
    assert found.orphans == ()


def test_a_life_that_has_left_something_and_is_missing_is_a_problem(store):
    publish(begin_life(store, "a"), 1)
    store.delete(life_key("a", 0))
    assert problem_keys(inspect_run(store)) == [life_key("a", 0)]


def test_with_a_key_pointers_must_be_signed_with_it(store):
    publish(begin_life(store, "a", signing_key=KEY), 1)
    publish(begin_life(store, "b"), 1)
    assert inspect_run(store).problems == ()
    assert problem_keys(inspect_run(store, signing_key=KEY)) == [pointer_key("b")]
    found = inspect_run(store, signing_key=SigningKey(secret=bytes(range(32))))
    assert problem_keys(found) == [pointer_key("a"), pointer_key("b")]
    # What an unsigned pointer leads to might be what a signed one led to before.
    assert found.orphans == ()


def test_a_value_that_the_store_refuses_is_a_problem_and_the_others_are_read(store):
    publish(begin_life(store, "a"), 1)
    publish(begin_life(store, "b"), 2)
    store.faults.fail("read", key_contains=shard_key("a", 0, 0, SHARD))
    found = inspect_run(store)
    assert problem_keys(found) == [shard_key("a", 0, 0, SHARD)]
    assert [peer.step for peer in found.peers] == [1, 2]


def test_a_store_that_cannot_be_listed_is_an_error(store):
    publish(begin_life(store, "a"), 1)
    store.faults.fail("list_names")
    with pytest.raises(StoreError):
        inspect_run(store)


def test_a_snapshot_without_a_manifest_is_an_orphan_with_its_size(store):
    publish(begin_life(store, "a"), 1, 2)
    store.write(shard_key("a", 0, 2, SHARD), b"x" * 1000)
    remove(store, "a", 0, shard=False)
    found = inspect_run(store)
    assert orphans(found) == {("a", (0, 0)): "it has no manifest", ("a", (0, 2)): "it has no manifest"}
    orphan = found.orphans[1]
    assert (orphan.key, orphan.values, orphan.size_bytes) == (
        "a/snapshots/0-2",
        (f"a/snapshots/0-2/{SHARD}",),
        1000,
    )
    assert found.problems == ()
    assert found.peers[0].snapshots == 1


def test_a_snapshot_that_no_pointer_has_led_to_is_an_orphan(store):
    publisher = begin_life(store, "a")
    publish(publisher, 1)
    store.faults.fail("write", key_contains="latest.json")
    with pytest.raises(StoreError):
        publish(publisher, 2)
    store.faults.clear()
    found = inspect_run(store)
    assert orphans(found) == {("a", (0, 1)): "no pointer has led to it"}
    assert set(found.orphans[0].values) == {manifest_key("a", 0, 1), shard_key("a", 0, 1, SHARD)}
    assert found.orphans[0].size_bytes == size_of(store, "a/snapshots/0-1")
    store.delete(pointer_key("a"))
    assert orphans(inspect_run(store)) == {
        ("a", (0, 0)): "no pointer has led to it",
        ("a", (0, 1)): "no pointer has led to it",
    }


def test_predecessors_that_are_still_there_are_no_orphans(store):
    first = begin_life(store, "a")
    publish(first, *range(5))
    publish(begin_life(store, "a", previous=first.previous), 5)
    remove(store, "a", 0, 1)
    found = inspect_run(store)
    assert (found.problems, found.orphans) == ((), ())
    assert (found.peers[0].lives, found.peers[0].snapshots) == (2, 4)


def test_snapshots_whose_successors_and_predecessors_are_gone_are_orphans(store):
    publish(begin_life(store, "a"), *range(6))
    remove(store, "a", 0, 3)
    why = "nothing leads to it any more"
    assert orphans(inspect_run(store)) == {("a", (0, 1)): why, ("a", (0, 2)): why}


def test_a_snapshot_that_somebody_says_to_be_reading_is_no_orphan(store):
    publish(begin_life(store, "a"), *range(5))
    remove(store, "a", 0, 2)
    begin_life(store, "b")
    for state in ("running", "left"):
        tell(store, "b", reading={"a": (0, 1)}, state=state)
        assert inspect_run(store).orphans == ()
    tell(store, "b", reading={"c": (0, 1)})
    assert orphans(inspect_run(store)) == {("a", (0, 1)): "nothing leads to it any more"}


def test_in_lockstep_what_a_later_life_has_passed_by_is_no_orphan(store):
    first = begin_life(store, "a")
    publish(first, 0, 1)
    resumed_from = first.previous
    publish(first, 2, 3)
    publish(begin_life(store, "a", previous=resumed_from), 2)
    found = inspect_run(store)
    assert (found.problems, found.orphans) == ((), ())


def test_behind_a_damaged_manifest_nothing_is_an_orphan(store):
    publish(begin_life(store, "a"), *range(5))
    remove(store, "a", 0)
    store.write(manifest_key("a", 0, 3), b"{}")
    found = inspect_run(store)
    assert set(problem_keys(found)) == {manifest_key("a", 0, 3)}
    assert found.orphans == ()


def test_behind_a_manifest_that_is_not_the_one_referred_to_nothing_is_an_orphan(store):
    publish(begin_life(store, "a"), *range(5))
    remove(store, "a", 0)

    def cut_the_way(content):
        return json.dumps({**json.loads(content), "previous": None}).encode()

    alter(store, manifest_key("a", 0, 3), cut_the_way)
    found = inspect_run(store)
    assert set(problem_keys(found)) == {manifest_key("a", 0, 3)}
    assert found.orphans == ()


def test_what_a_manifest_does_not_name_is_an_orphan(store):
    publish(begin_life(store, "a"), 1)
    store.write("a/snapshots/0-0/left.tmp", b"x" * 7)
    found = inspect_run(store)
    assert found.orphans[0].values == ("a/snapshots/0-0/left.tmp",)
    assert (found.orphans[0].size_bytes, len(found.orphans)) == (7, 1)
    assert found.problems == ()
    assert found.peers[0].size_bytes == size_of(store, "a/snapshots/0-0")


def test_an_orphan_that_is_damaged_is_a_problem_that_pruning_solves(store):
    publish(begin_life(store, "a"), *range(5))
    remove(store, "a", 0, 2)
    alter(store, shard_key("a", 0, 1, SHARD))
    (problem,) = inspect_run(store).problems
    assert (problem.key, problem.next_step) == (shard_key("a", 0, 1, SHARD), "Nobody needs it: prune it.")


class Training(MemoryStore):
    """A store in which something happens just before a certain read."""

    def __init__(self):
        super().__init__()
        self.before = {}

    @override
    def _read(self, key, *, max_bytes, start):
        happen = self.before.pop(key, None)
        if happen is not None:
            happen()
        return super()._read(key, max_bytes=max_bytes, start=start)


@pytest.mark.parametrize("key", [manifest_key("a", 0, 0), shard_key("a", 0, 1, SHARD), pointer_key("a")])
def test_a_peer_that_publishes_meanwhile_is_well(key):
    store = Training()
    publisher = begin_life(store, "a")
    publish(publisher, 1, 2)

    def publish_two_and_delete_two():
        publish(publisher, 3, 4)
        remove(store, "a", 0, 1)

    store.before[key] = publish_two_and_delete_two
    found = inspect_run(store)
    assert store.before == {}
    assert found.problems == ()
    assert found.peers[0].step == 4
    assert {orphan.order for orphan in found.orphans} <= {(0, 0), (0, 1)}


def test_what_a_peer_publishes_meanwhile_leads_to_what_was_there():
    store = Training()
    publisher = begin_life(store, "a")
    publish(publisher, 1, 2, 3)
    remove(store, "a", 0)
    store.before[pointer_key("a")] = lambda: publish(publisher, 4, 5)
    found = inspect_run(store)
    assert (found.problems, found.orphans, found.peers[0].step) == ((), (), 5)


def test_a_pointer_whose_snapshot_is_replaced_before_it_is_read_is_followed():
    store = Training()
    publisher = begin_life(store, "a")
    publish(publisher, 1)

    def replace_again():
        publish(publisher, 3)
        remove(store, "a", 1)

    def replace():
        publish(publisher, 2)
        remove(store, "a", 0)
        store.before[manifest_key("a", 0, 1)] = replace_again

    store.before[manifest_key("a", 0, 0)] = replace
    found = inspect_run(store)
    assert (found.problems, found.peers[0].step, found.peers[0].pointer.order) == ((), 3, (0, 2))


class Endless(MemoryStore):
    """A store in which some values have no end, and which notes how much is read at once."""

    def __init__(self):
        super().__init__()
        self.endless = set()
        self.most = {}

    @override
    def _read(self, key, *, max_bytes, start):
        self.most[key] = max(self.most.get(key, 0), max_bytes)
        if key in self.endless:
            return b"\0" * max_bytes
        return super()._read(key, max_bytes=max_bytes, start=start)


def test_nothing_is_read_in_pieces_larger_than_what_it_may_be():
    store = Endless()
    publish(begin_life(store, "a"), 1)
    store.write(shard_key("a", 0, 1, SHARD), b"x")
    store.endless |= {shard_key("a", 0, 1, SHARD), manifest_key("a", 0, 2), "b/status.json", "b/latest.json"}
    store.endless.add("b/lives/0.json")
    for key in store.endless:
        store.write(key, b"x")
    found = inspect_run(store)
    assert set(problem_keys(found)) == {manifest_key("a", 0, 2), *(f"b/{name}.json" for name in NAMES)}
    assert all(most <= CHUNK_BYTES for key, most in store.most.items() if not key.endswith("manifest.json"))
    assert max(store.most.values()) == MAX_MANIFEST_BYTES + 1


NAMES = ("status", "latest", "lives/0")


def test_names_without_end_are_cut_and_then_nothing_is_an_orphan(store, monkeypatch):
    publish(begin_life(store, "a"), *range(5))
    remove(store, "a", 0, 2)
    monkeypatch.setattr(inspection, "_MOST_NAMES", 20)
    assert len(inspect_run(store).orphans) == 1
    for most in range(1, 12):
        monkeypatch.setattr(inspection, "_MOST_NAMES", most)
        found = inspect_run(store)
        assert found.orphans == ()
        assert any(f"more than {most} names" in problem.what for problem in found.problems)
