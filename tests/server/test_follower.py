import shutil

import pytest
import torch
from torch import nn

from codistill.errors import SnapshotFormatError, StoreError
from codistill.exchange.checkpoint.lives import open_run
from codistill.exchange.teacher_options import TeacherOptions
from codistill.parallel.weights import named_tensors
from codistill.server.follower import Follower
from codistill.snapshots.signing import SigningKey
from codistill.stores.directory import DirectoryStore
from codistill.stores.memory import MemoryStore


class Brought(list):
    """What a follower has brought, and what the teachers would hold then."""

    def __call__(self, standby):
        if standby.tensors is not None:
            standby.teacher.load(standby.tensors, standby.info, first_seen_step=0)
        self.append(standby)

    @property
    def orders(self):
        return [(one.info.peer, one.info.incarnation, one.info.sequence) for one in self]


@pytest.fixture
def follow(store):
    def make(*, build=None, max_teachers=4, where=None, **options):
        brought = Brought()
        teachers = TeacherOptions(build=build or (lambda info: nn.Linear(4, 3)), max_teachers=max_teachers)
        return Follower(where or store, teachers, brought, **options), brought

    return make


def test_every_new_snapshot_is_brought_once(store, follow, peer_of, model_of):
    follower, brought = follow()
    follower.look()
    assert brought == []
    a, b = peer_of(store, "a"), peer_of(store, "b")
    a.publish(model_of(1))
    b.publish(model_of(2))
    follower.look()
    follower.look()
    assert brought.orders == [("a", 0, 0), ("b", 0, 0)]
    b.publish(model_of(3))
    follower.look()
    assert brought.orders[2:] == [("b", 0, 1)]
    # The second goes into the teacher of the first.
    assert brought[2].teacher is brought[1].teacher
    held = named_tensors(brought[2].teacher.module)
    assert all(torch.equal(held[name], tensor) for name, tensor in named_tensors(model_of(3)).items())
    assert follower.problems == {}


def test_what_comes_first_is_whole_before_it_is_served(store, follow, peer_of, model_of):
    follower, brought = follow()
    peer_of(store, "b").publish(model_of(1))
    follower.look()
    (standby,) = brought
    assert standby.tensors is None
    assert torch.equal(named_tensors(standby.teacher.module)["weight"], model_of(1).weight)


def test_a_peer_that_comes_back_as_another_model_gets_another_teacher(store, follow, peer_of, model_of):
    def build(info):
        return nn.Linear(*reversed(info.tensors["weight"]))

    follower, brought = follow(build=build)
    peer_of(store, "b").publish(model_of(1))
    follower.look()
    peer_of(store, "b", incarnation=1).publish(model_of(2, lambda: nn.Linear(4, 7)))
    follower.look()
    assert brought.orders == [("b", 0, 0), ("b", 1, 0)]
    assert brought[1].teacher is not brought[0].teacher
    assert brought[1].teacher.module.out_features == 7
    assert follower.problems == {}


def test_who_is_named_is_followed_and_nobody_else(store, follow, peer_of, model_of):
    for peer in "abc":
        peer_of(store, peer).publish(model_of(1))
    follower, brought = follow(peers=["c", "a"])
    follower.look()
    assert [one.info.peer for one in brought] == ["a", "c"]


def test_who_finds_no_room_is_said_once_and_who_is_served_stays(store, follow, peer_of, model_of, caplog):
    follower, brought = follow(max_teachers=2)
    for peer in "bcd":
        peer_of(store, peer).publish(model_of(1))
    follower.look()
    peer_of(store, "a").publish(model_of(1))
    for _ in range(3):
        follower.look()
    assert [one.info.peer for one in brought] == ["b", "c"]
    assert caplog.text.count("'d' is not served: there is room for 2") == 1
    assert set(follower.problems) == {"a", "d"}


def test_a_snapshot_that_fits_no_model_is_refused_before_its_weights_are_read(
    store, follow, peer_of, model_of, caplog
):
    follower, brought = follow()
    peer = peer_of(store, "b")
    peer.publish(model_of(1, lambda: nn.Linear(5, 3)))
    store.faults.fail("read", key_contains="shard")
    for _ in range(3):
        follower.look()
    assert brought == []
    store.faults.clear()
    assert "does not fit this model" in follower.problems["b"]
    assert caplog.text.count("does not fit this model") == 1
    peer.publish(model_of(1))
    follower.look()
    assert brought.orders == [("b", 0, 1)]
    assert follower.problems == {}


def test_a_snapshot_that_holds_NaN_is_refused(store, follow, peer_of, model_of):
    follower, brought = follow()
    peer = peer_of(store, "b")
    peer.publish(model_of(1))
    follower.look()
    bad = model_of(2)
    with torch.no_grad():
        bad.bias[0] = torch.nan
    peer.publish(bad)
    for _ in range(2):
        follower.look()
    assert brought.orders == [("b", 0, 0)]
    assert "'bias' of snapshot 0-1 holds NaN" in follower.problems["b"]


def test_a_damaged_snapshot_is_read_twice_at_most(store, follow, peer_of, model_of):
    follower, brought = follow()
    peer = peer_of(store, "b")
    peer.publish(model_of(1))
    store.faults.flip_bit(key_contains="shard")
    for _ in range(2):
        follower.look()
    store.faults.clear()
    follower.look()
    assert brought == []
    assert "shard" in follower.problems["b"]
    peer.publish(model_of(2))
    follower.look()
    assert brought.orders == [("b", 0, 1)]


def test_an_older_pointer_than_before_is_no_news(store, follow, peer_of, model_of):
    follower, brought = follow()
    peer = peer_of(store, "b")
    peer.publish(model_of(1))
    old = store.read("b/latest.json", max_bytes=2**20)
    peer.publish(model_of(2))
    follower.look()
    store.write("b/latest.json", old)
    follower.look()
    assert brought.orders == [("b", 0, 1)]


def test_a_pointer_that_is_not_signed_with_the_key_is_refused(store, follow, peer_of, model_of):
    key, other = (SigningKey(secret=bytes([byte]) * 32) for byte in (1, 2))
    follower, brought = follow(signing_key=key)
    peer_of(store, "a", signing_key=key).publish(model_of(1))
    peer_of(store, "b", signing_key=other).publish(model_of(1))
    peer_of(store, "c").publish(model_of(1))
    follower.look()
    assert [one.info.peer for one in brought] == ["a"]
    assert set(follower.problems) == {"b", "c"}


def test_what_another_run_left_is_refused(store, follow, peer_of, model_of, tmp_path):
    ours, theirs = (DirectoryStore(tmp_path / name) for name in ("ours", "theirs"))
    open_run(ours)
    peer_of(theirs, "b").publish(model_of(1))
    follower, brought = follow(where=ours)
    shutil.copytree(tmp_path / "theirs" / "b", tmp_path / "ours" / "b")
    follower.look()
    assert brought == []
    assert "must be of run" in follower.problems["b"]


def test_a_store_that_is_away_for_a_while_changes_nothing(store, follow, peer_of, model_of, caplog):
    follower, brought = follow()
    peer = peer_of(store, "b")
    peer.publish(model_of(1))
    follower.look()
    store.faults.go_away()
    for _ in range(3):
        follower.look()
    assert "cannot be read" in follower.problems[""]
    assert caplog.text.count("cannot be read") == 1
    store.faults.clear()
    store.faults.fail("read", key_contains="b/", times=1)
    follower.look()
    assert set(follower.problems) == {"b"}
    peer.publish(model_of(2))
    follower.look()
    assert brought.orders == [("b", 0, 0), ("b", 0, 1)]
    assert follower.problems == {}


def test_a_build_that_fails_leaves_the_other_peers_served(store, follow, peer_of, model_of, caplog):
    def build(info):
        if info.peer == "a":
            raise ZeroDivisionError("oops")
        return nn.Linear(4, 3) if info.peer == "b" else "no module"

    follower, brought = follow(build=build)
    for peer in "abc":
        peer_of(store, peer).publish(model_of(1))
    follower.look()
    assert [one.info.peer for one in brought] == ["b"]
    assert "ZeroDivisionError: oops" in follower.problems["a"]
    assert "must return a torch.nn.Module" in follower.problems["c"]


def test_a_store_without_a_run_is_refused(follow, tmp_path):
    with pytest.raises(StoreError):
        follow(where=MemoryStore())
    (tmp_path / "run.json").write_text('{"format": 1, "kind": "codistill results"}')
    with pytest.raises(SnapshotFormatError):
        follow(where=DirectoryStore(tmp_path))


def test_a_follower_that_is_closed_gives_up_what_it_reads(store, follow, peer_of, model_of):
    follower, brought = follow(poll_s=3600.0)
    peer_of(store, "b").publish(model_of(1))
    follower.start()
    assert follower.close(30)
    follower.look()
    assert len(brought) <= 1
