import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from codistill.errors import CodistillWarning, SnapshotIntegrityError, SnapshotMismatchError
from codistill.exchange.base import DistillationSettings, Progress
from codistill.exchange.checkpoint.classroom import Classroom
from codistill.exchange.checkpoint.fading import Fading
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.saved_state import SavedTeacher
from codistill.exchange.checkpoint.sighting import Discovery
from codistill.exchange.teacher_options import TeacherOptions
from codistill.fragments import Box
from codistill.losses.divergences import as_divergence

INPUTS = torch.tensor([[1.0, 0.0, 0.0, 0.0]])


class Room:
    """A classroom with what it needs around it."""

    def __init__(self, store, student, options=None, when_stale="fade", class_dim=None):
        self.fetcher = Fetcher(store, run_id=None, max_bytes=None)
        fading = Fading(max_age_steps=10, when_stale=when_stale)
        self.classroom = Classroom(student, options or TeacherOptions(), fading, class_dim=class_dim)

    def take(self, peer, *, step=0):
        reference = self.fetcher.pointer(peer).manifest
        manifest = self.fetcher.manifest(reference)
        self.classroom.check_fits(manifest)
        self.classroom.take(self.fetcher.fetch(manifest, reference, first_seen_step=step))

    def predict(self):
        return {p.peer: (float(p.target.logits[0, 0]), p.share) for p in self.predictions()}

    def predictions(self):
        return self.classroom.predict(INPUTS, None).peers


@pytest.fixture
def room(store, make_model):
    return Room(store, make_model())


def test_it_begins_empty(room):
    assert room.predictions() == ()
    assert room.classroom.describe() == {}
    assert room.classroom.orders == {}
    assert room.classroom.save() == {}
    assert room.classroom.peers == []
    assert room.classroom.who_was_nan() == []


def test_teachers_predict_in_sorted_order(room, store, publish):
    for peer, step in (("c", 3), ("a", 1), ("b", 2)):
        publish(store, peer, [step])
        room.take(peer)
    predictions = room.predictions()
    assert [prediction.peer for prediction in predictions] == ["a", "b", "c"]
    assert [float(prediction.target.logits[0, 0]) for prediction in predictions] == [2.0, 4.0, 6.0]
    assert [prediction.share for prediction in predictions] == [1.0] * 3
    assert list(room.classroom.describe()) == room.classroom.peers == ["a", "b", "c"]
    assert list(room.classroom.save()) == ["a", "b", "c"]


def test_a_newer_snapshot_goes_into_the_same_module(room, store, publish):
    publish(store, "b", [1])
    room.take("b")
    module = room.classroom._teachers["b"].module
    publish(store, "b", [5], incarnation=1)
    room.take("b", step=9)
    assert room.classroom._teachers["b"].module is module
    room.classroom.step = 12
    info = room.classroom.describe()["b"]
    assert (info.incarnation, info.sequence, info.step, info.samples, info.age_steps) == (1, 0, 5, 50, 3)
    assert room.predict() == {"b": (10.0, 1.0)}


def test_a_damaged_snapshot_leaves_the_teacher_as_it_was(room, store, publish):
    publish(store, "b", [1])
    room.take("b", step=4)
    room.classroom.step = 4
    before = room.classroom.describe(), room.classroom.save()
    publish(store, "b", [2], incarnation=1)
    store.faults.flip_bit(key_contains="shard")
    with pytest.raises(SnapshotIntegrityError):
        room.take("b", step=5)
    assert (room.classroom.describe(), room.classroom.save()) == before
    assert room.predict() == {"b": (2.0, 1.0)}


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
    assert [prediction.target.logits.shape for prediction in room.predictions()] == [(1, 3), (1, 5)]


def test_a_peer_that_comes_back_with_another_architecture_is_built_again(store, publish, make_model):
    options = TeacherOptions(build=lambda info: make_model(classes=info.metadata["classes"]))
    room = Room(store, make_model(), options)
    for life, classes in enumerate((3, 5)):
        model = make_model(1.0, classes=classes)
        publish(store, "b", [1], model=model, incarnation=life, metadata={"classes": classes})
        room.take("b")
    assert room.predictions()[0].target.logits.shape == (1, 5)


def test_what_was_built_for_another_snapshot_is_refused_and_nothing_changes(store, publish, make_model):
    room = Room(store, make_model(), TeacherOptions(build=lambda info: make_model()))
    publish(store, "b", [1])
    room.take("b")
    before = room.classroom.describe(), room.classroom.save()
    publish(store, "b", [2], model=make_model(classes=7), incarnation=1)
    with pytest.raises(SnapshotMismatchError, match="Let build return the architecture"):
        room.take("b")
    assert (room.classroom.describe(), room.classroom.save()) == before
    assert room.predict() == {"b": (2.0, 1.0)}


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
    assert list(room.classroom.describe()) == ["b"]


def test_the_identity_of_teachers_is_saved(room, store, publish):
    publisher = publish(store, "b", [1])
    room.take("b", step=6)
    assert room.classroom.save() == {"b": SavedTeacher(manifest=publisher.previous, first_seen_step=6)}
    assert room.classroom.orders == {"b": (0, 0)}


# How much they count


@pytest.mark.parametrize(
    ("when_stale", "shares"),
    [("fade", [1.0, 1.0, 0.5, 0.0]), ("drop", [1.0, 1.0, 0.0, 0.0]), ("keep", [1.0] * 4)],
)
def test_a_teacher_counts_less_as_it_grows_old(store, make_model, publish, when_stale, shares):
    room = Room(store, make_model(), when_stale=when_stale)
    publish(store, "b", [1])
    room.take("b", step=100)
    seen = []
    for step in (100, 110, 115, 120):
        room.classroom.step = step
        seen.append(room.classroom.share("b"))
        assert room.classroom.describe()["b"].share == seen[-1]
        # At 0 it is not run.
        assert room.predict() == ({"b": (2.0, seen[-1])} if seen[-1] else {})
    assert seen == shares


def test_the_last_snapshot_of_a_peer_never_grows_old(room, store, publish):
    publish(store, "b", [1], finished=True)
    room.take("b")
    room.classroom.step = 10**6
    assert room.classroom.share("b") == 1.0


def test_a_teacher_in_quarantine_is_not_run(room, store, publish):
    for peer in "bc":
        publish(store, peer, [1])
        room.take(peer)
    room.classroom.quarantined = frozenset("b")
    assert list(room.predict()) == ["c"]
    infos = room.classroom.describe()
    assert {peer: (info.share, info.is_quarantined) for peer, info in infos.items()} == {
        "b": (0.0, True),
        "c": (1.0, False),
    }


# Predictions that are no numbers


def test_who_was_nan_is_told_once(room, store, publish):
    for peer in "bc":
        publish(store, peer, [1])
        room.take(peer)
    with torch.no_grad():
        room.classroom._teachers["c"].module.bias[1] = torch.nan
    assert room.predict() == {"b": (2.0, 1.0), "c": (0.0, 0.0)}
    assert room.classroom.who_was_nan() == [False, True]
    assert room.classroom.who_was_nan() == [False, False]


def test_one_bad_batch_of_several_is_enough(store, publish):
    class Brittle(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs).log()

    room = Room(store, Brittle(4, 3))
    publish(store, "b", [1])
    room.take("b")
    room.classroom.predict(-3 * INPUTS, None)
    room.classroom.predict(INPUTS, None)
    assert room.classroom.who_was_nan() == [True]


def test_a_new_snapshot_is_not_blamed_for_the_one_before(room, store, publish):
    publish(store, "b", [1])
    room.take("b")
    with torch.no_grad():
        room.classroom._teachers["b"].module.bias[1] = torch.nan
    room.predict()
    publish(store, "b", [2], incarnation=1)
    room.take("b")
    assert room.classroom.who_was_nan() == [False]
    assert room.predict() == {"b": (4.0, 1.0)}


# Steps that are left out, and modules that were built


def test_teachers_run_at_every_such_step_only(store, publish):
    class Counting(nn.Linear):
        calls = 0

        def forward(self, inputs):
            Counting.calls += 1
            return super().forward(inputs)

    room = Room(store, Counting(4, 3), TeacherOptions(every=3))
    publish(store, "b", [1])
    room.take("b")
    found = []
    for step in range(7):
        room.classroom.step = step
        found.append(len(room.predictions()))
    assert found == [1, 0, 0, 1, 0, 0, 1]
    assert Counting.calls == 3


def test_predictions_come_to_where_the_students_logits_are(store, make_model, publish):
    room = Room(store, make_model(), TeacherOptions(build=lambda info: make_model()))
    publish(store, "b", [1])
    room.take("b")
    elsewhere = torch.zeros(1, 3, device="meta")
    (prediction,) = room.classroom.predict(INPUTS, None, logits=elsewhere).peers
    assert prediction.target.logits.device.type == "meta"


def discovery_of(room, peer, *, step=0):
    reference = room.fetcher.pointer(peer).manifest
    return Discovery(manifest=room.fetcher.manifest(reference), reference=reference, first_seen_step=step)


def test_what_is_prepared_is_no_teacher_until_its_weights_are_there(store, make_model, publish):
    built = []

    def build(info):
        built.append(make_model())
        return built[-1]

    room = Room(store, make_model(), TeacherOptions(build=build))
    publish(store, "b", [1])
    found = discovery_of(room, "b", step=4)
    boxes = room.classroom.prepare(found)
    assert boxes == {"weight": Box.whole((3, 4)), "bias": Box.whole((3,))}
    assert room.classroom.peers == []
    assert room.predictions() == ()
    assert room.classroom.divided == frozenset()
    # Nor is it built twice: that may take long.
    assert room.classroom.prepare(found) == boxes
    room.classroom.take(room.fetcher.fetch_boxes(found, boxes))
    assert len(built) == 1
    assert room.classroom._teachers["b"].module is built[0]
    assert room.predict() == {"b": (2.0, 1.0)}
    assert room.classroom.save()["b"].first_seen_step == 4


def test_another_architecture_is_prepared_beside_the_teacher_there_is(store, make_model, publish):
    options = TeacherOptions(build=lambda info: make_model(classes=info.metadata["classes"]))
    room = Room(store, make_model(), options)
    publish(store, "b", [1], metadata={"classes": 3})
    room.take("b")
    publish(store, "b", [2], model=make_model(1.0, classes=5), incarnation=1, metadata={"classes": 5})
    found = discovery_of(room, "b")
    boxes = room.classroom.prepare(found)
    assert room.predict() == {"b": (2.0, 1.0)}
    room.classroom.take(room.fetcher.fetch_boxes(found, boxes))
    assert room.predictions()[0].target.logits.shape == (1, 5)


def test_what_was_prepared_for_a_peer_that_is_not_kept_goes(store, make_model, publish):
    built = []

    def build(info):
        built.append(info.peer)
        return make_model()

    room = Room(store, make_model(), TeacherOptions(build=build))
    publish(store, "b", [1])
    found = discovery_of(room, "b")
    room.classroom.prepare(found)
    room.classroom.keep_only([])
    room.classroom.prepare(found)
    assert built == ["b", "b"]


def test_what_build_makes_must_fit_when_it_is_prepared(store, make_model, publish):
    room = Room(store, make_model(), TeacherOptions(build=lambda info: make_model()))
    publish(store, "b", [1], model=make_model(classes=7))
    with pytest.raises(SnapshotMismatchError, match="Let build return the architecture"):
        room.classroom.prepare(discovery_of(room, "b"))
    assert room.classroom.peers == []


def test_a_room_knows_who_is_divided(store, make_model, publish):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        student = fully_shard(make_model(), mesh=mesh)
        student(INPUTS)
        options = TeacherOptions(
            build=lambda info: fully_shard(make_model(), mesh=mesh) if info.peer == "b" else make_model()
        )
        room = Room(store, student, options)
        assert room.classroom.is_student_divided
        assert not Room(store, make_model()).classroom.is_student_divided
        for peer in "bc":
            publish(store, peer, [1])
            room.take(peer)
            room.predictions()
        assert room.classroom.divided == {"b"}
    finally:
        dist.destroy_process_group()


# Other classes


@pytest.fixture
def odd_room(store, make_model, publish):
    """A room for a student of three classes, with a teacher of three and one of five."""
    options = TeacherOptions(build=lambda info: make_model(classes=info.metadata["classes"]))
    room = Room(store, make_model(), options, class_dim=1)
    for peer, classes in (("b", 3), ("c", 5)):
        publish(store, peer, [1], model=make_model(1.0, classes=classes), metadata={"classes": classes})
        room.take(peer)
    return room


def test_who_tells_other_classes_apart_is_left_out_and_noted(odd_room):
    predictions = odd_room.classroom.predict(INPUTS, None, logits=torch.zeros(1, 3)).peers
    assert [prediction.peer for prediction in predictions] == ["b"]
    assert odd_room.classroom.other_classes == {"c": 5}
    assert odd_room.classroom.who_was_nan() == [False, True]


@pytest.mark.parametrize("logits", [None, torch.zeros(2, 3), torch.zeros(1, 2, 3), torch.zeros(1, 5)])
def test_other_differences_are_for_the_loss_to_name(odd_room, logits):
    predictions = odd_room.classroom.predict(INPUTS, None, logits=logits).peers
    of_c = [prediction for prediction in predictions if prediction.peer == "c"]
    assert len(of_c) == 1
    assert "c" not in odd_room.classroom.other_classes


def test_a_copy_of_the_student_has_its_classes_and_the_loss_names_who_says_otherwise(
    store, make_model, publish
):
    room = Room(store, make_model(), class_dim=1)
    publish(store, "b", [1])
    room.take("b")
    assert len(room.classroom.predict(INPUTS, None, logits=torch.zeros(1, 5)).peers) == 1


def test_nobody_is_left_out_unless_it_is_known_where_classes_are(store, make_model, publish):
    room = Room(store, make_model(), TeacherOptions(build=lambda info: make_model(classes=5)))
    publish(store, "b", [1], model=make_model(classes=5))
    room.take("b")
    assert len(room.classroom.predict(INPUTS, None, logits=torch.zeros(1, 3)).peers) == 1


def test_a_peer_of_other_classes_is_said_once_and_learnt_from_when_it_has_these(
    store, join, publish, make_model
):
    settings = DistillationSettings(
        divergence=as_divergence("kl"), combine="losses", weight=lambda step: 1.0, burn_in_steps=0
    )
    options = TeacherOptions(build=lambda info: make_model(classes=info.metadata["classes"]))
    odd = {"model": make_model(1.0, classes=5), "metadata": {"classes": 5}}
    publish(store, "b", [1], **odd)
    exchange = join(store, "a", teachers=options, settings=settings)
    found = []

    def train_until(last):
        while len(found) < last:
            found.append(len(exchange.predict(INPUTS, torch.zeros(1, 3)).peers))
            exchange.step(Progress(step=len(found)))

    with pytest.warns(CodistillWarning, match="it tells 5 classes apart, another number than this model"):
        train_until(10)
    # Another warning would be an error.
    publish(store, "b", [2], incarnation=1, **odd)
    train_until(30)
    assert exchange.teachers["b"].is_quarantined
    publish(store, "b", [3], incarnation=2, model=make_model(2.0), metadata={"classes": 3})
    train_until(40)
    assert found == [0] * found.index(1) + [1] * (40 - found.index(1))
    exchange.close(Progress(step=40), publish=False)


def test_in_lockstep_it_is_left_to_the_loss(store, join, publish, make_model):
    settings = DistillationSettings(
        divergence=as_divergence("kl"), combine="losses", weight=lambda step: 1.0, burn_in_steps=0
    )
    publish(store, "b", [0], model=make_model(1.0, classes=5))
    options = TeacherOptions(build=lambda info: make_model(classes=5))
    exchange = join(store, "a", peers=["a", "b"], lockstep=True, teachers=options, settings=settings)
    assert len(exchange.predict(INPUTS, torch.zeros(1, 3)).peers) == 1
    exchange.close(Progress(), publish=False)
