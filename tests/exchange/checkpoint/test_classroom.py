import pytest
import torch

from codistill.errors import SnapshotIntegrityError, SnapshotMismatchError
from codistill.exchange.checkpoint.classroom import Classroom
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.saved_state import SavedTeacher
from codistill.exchange.teachers import TeacherOptions

INPUTS = torch.tensor([[1.0, 0.0, 0.0, 0.0]])


class Room:
    """A classroom with what it needs around it."""

    def __init__(self, store, student, options=None):
        self.taken = []
        self.fetcher = Fetcher(store, run_id=None, max_bytes=None)
        self.classroom = Classroom(
            student, options or TeacherOptions(), self.fetcher, when_taken=self.taken.append
        )

    def take(self, peer, *, step=0):
        reference = self.fetcher.pointer(peer).manifest
        self.classroom.take(self.fetcher.manifest(reference), reference, first_seen_step=step)


@pytest.fixture
def room(store, make_model):
    return Room(store, make_model())


def test_it_begins_empty(room):
    assert room.classroom.predict(INPUTS, None).peers == ()
    assert room.classroom.describe(0) == {}
    assert room.classroom.orders == {}
    assert room.classroom.save() == {}


def test_teachers_predict_in_sorted_order(room, store, publish):
    for peer, step in (("c", 3), ("a", 1), ("b", 2)):
        publish(store, peer, [step])
        room.take(peer)
    predictions = room.classroom.predict(INPUTS, None).peers
    assert [prediction.peer for prediction in predictions] == ["a", "b", "c"]
    assert [float(prediction.target.logits[0, 0]) for prediction in predictions] == [2.0, 4.0, 6.0]
    assert list(room.classroom.describe(0)) == ["a", "b", "c"]
    assert list(room.classroom.save()) == ["a", "b", "c"]


def test_a_newer_snapshot_goes_into_the_same_module(room, store, publish):
    publish(store, "b", [1])
    room.take("b")
    module = room.classroom._teachers["b"]._module
    publish(store, "b", [5], incarnation=1)
    room.take("b", step=9)
    assert room.classroom._teachers["b"]._module is module
    info = room.classroom.describe(12)["b"]
    assert (info.incarnation, info.sequence, info.step, info.samples, info.age_steps) == (1, 0, 5, 50, 3)
    assert float(room.classroom.predict(INPUTS, None).peers[0].target.logits[0, 0]) == 10.0


def test_every_snapshot_taken_is_told(room, store, publish):
    publish(store, "b", [1, 2])
    room.take("b")
    assert [(manifest.peer, manifest.step) for manifest in room.taken] == [("b", 2)]


def test_a_damaged_snapshot_leaves_the_teacher_as_it_was(room, store, publish):
    publish(store, "b", [1])
    room.take("b", step=4)
    before = room.classroom.describe(4), room.classroom.save()
    publish(store, "b", [2], incarnation=1)
    store.faults.flip_bit(key_contains="shard")
    with pytest.raises(SnapshotIntegrityError):
        room.take("b", step=5)
    assert (room.classroom.describe(4), room.classroom.save()) == before
    assert float(room.classroom.predict(INPUTS, None).peers[0].target.logits[0, 0]) == 2.0
    assert len(room.taken) == 1


def test_a_first_snapshot_that_is_damaged_makes_no_teacher(room, store, publish):
    publish(store, "b", [1])
    store.faults.flip_bit(key_contains="shard")
    with pytest.raises(SnapshotIntegrityError):
        room.take("b")
    assert room.classroom.orders == {}


def test_another_architecture_is_refused_before_its_download(room, store, publish, make_model):
    publish(store, "b", [1], model=make_model(classes=7))
    with pytest.raises(SnapshotMismatchError, match=r"'bias' is \[7\] there and \[3\] here") as caught:
        room.take("b")
    assert (caught.value.peer, caught.value.step) == ("b", 1)
    assert caught.value.key == "b/snapshots/0-0/manifest.json"
    assert store.count("read", key_contains="shard") == 0


def test_modules_are_built_once_a_peer(store, publish, make_model):
    asked = []

    def build(info):
        asked.append((info.peer, info.step, dict(info.metadata)))
        return make_model(classes=info.metadata["classes"])

    room = Room(store, make_model(), TeacherOptions(build=build))
    for peer, classes in (("b", 3), ("c", 5)):
        for life in range(2):
            publish(
                store,
                peer,
                [1 + life],
                model=make_model(1.0, classes=classes),
                incarnation=life,
                metadata={"classes": classes},
            )
            room.take(peer)
    assert asked == [("b", 1, {"classes": 3}), ("c", 1, {"classes": 5})]
    shapes = [prediction.target.logits.shape for prediction in room.classroom.predict(INPUTS, None).peers]
    assert shapes == [(1, 3), (1, 5)]


def test_two_peers_must_not_be_given_one_module(store, publish, make_model):
    shared = make_model()
    room = Room(store, make_model(), TeacherOptions(build=lambda info: shared))
    for peer in ("b", "c"):
        publish(store, peer, [ord(peer)])
    room.take("b")
    with pytest.raises(TypeError, match="build must return a module of its own"):
        room.take("c")


def test_teachers_that_are_not_kept_go(room, store, publish):
    for peer in ("a", "b", "c"):
        publish(store, peer, [1])
        room.take(peer)
    room.classroom.keep_only(["b", "unknown"])
    assert list(room.classroom.orders) == ["b"]
    assert list(room.classroom.describe(0)) == ["b"]


def test_the_identity_of_teachers_is_saved(room, store, publish):
    publisher = publish(store, "b", [1])
    room.take("b", step=6)
    assert room.classroom.save() == {"b": SavedTeacher(manifest=publisher.previous, first_seen_step=6)}
    assert room.classroom.orders == {"b": (0, 0)}
