import json
import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from codistill.errors import CodistillWarning, RunExistsError, SnapshotIntegrityError, StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint import (
    CheckpointExchange,
    Lockstep,
    Membership,
    SnapshotOptions,
    load_snapshot,
)
from codistill.exchange.teacher_options import TeacherOptions
from codistill.snapshots.status import Status
from codistill.stores.memory import MemoryStore
from codistill.testing.clock import FakeClock
from codistill.topologies import KRegular


def step_in_turn(first, second, numbers):
    for number in numbers:
        step(first, number)
        step(second, number)


def step(exchange, number, **progress):
    exchange.step(Progress(step=number, **progress))


def step_often(exchange, times):
    for number in range(1, times + 1):
        step(exchange, number)


def status_of(store, peer):
    key = f"{peer}/status.json"
    return Status.from_json(store.read(key, max_bytes=10**5), key=key)


# Arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peer": ""}, "peer must be 1 to 64 letters"),
        ({"peer": "../b"}, r"peer must be 1 to 64 letters.*got '\.\./b'"),
        ({"peer": "run.json"}, "peer must not be 'run.json'"),
        ({"interval_steps": 0}, "interval_steps must be >= 1, got 0"),
        ({"interval_steps": -5}, "interval_steps must be >= 1, got -5"),
        ({"topology": "line"}, "topology must be one of 'all', 'ring', .*got 'line'"),
        ({"topology": KRegular(1)}, r"peers must be given with topology KRegular\(k=1\), got None"),
        ({"peers": ["b", "c"]}, r"peers must hold this peer, 'a', got \['b', 'c'\]"),
        ({"peers": ["a", "b", "b"]}, "peers must be different names"),
        ({"peers": ["a", "b"], "topology": KRegular(2)}, "k must be <= 1 for 2 peers, got 2"),
        ({"peers": list("abcdef"), "topology": "all"}, "max_teachers must be >= 5 for 6 peers"),
        (
            {"peers": ["a", "b"], "membership": Membership(start_with_peers=2)},
            "start_with_peers must be <= 1.*got 2",
        ),
        ({"lockstep": True}, "peers must be given in lockstep, got None"),
        ({"lockstep": Lockstep()}, "peers must be given in lockstep, got None"),
        (
            {"lockstep": True, "peers": ["a", "b"], "snapshots": SnapshotOptions(keep=3)},
            "keep must be None in lockstep, got 3",
        ),
    ],
)
def test_wrong_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CheckpointExchange(MemoryStore(), **{"peer": "a", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peer": 5}, "peer must be a string, got int"),
        ({"interval_steps": "5"}, "interval_steps must be an int, got '5'"),
        ({"interval_steps": 2.0}, "interval_steps must be an int, got 2.0"),
        ({"interval_steps": True}, "interval_steps must be an int, got True"),
        ({"peers": "ab"}, "peers must be a list of names, got 'ab'"),
        ({"peers": ["a", 5]}, r"peers\[1\] must be a string, got int"),
        ({"topology": 5}, "topology must be a name or a Topology, got 5"),
        ({"lockstep": 30}, "lockstep must"),
        ({"lockstep": "yes", "peers": ["a", "b"]}, "lockstep must"),
        ({"snapshots": "exact"}, "snapshots must"),
        ({"teachers": 4}, "teachers must"),
        ({"membership": {"rejoin": True}}, "membership must"),
    ],
)
def test_wrong_types_are_named(options, message):
    with pytest.raises(TypeError, match=message):
        CheckpointExchange(MemoryStore(), **{"peer": "a", **options})


@pytest.mark.parametrize(
    ("store", "kind", "message"),
    [
        (5, TypeError, "store must be a path, a URL or a Store, got int"),
        ("", ValueError, "store must name a folder, got ''"),
        ("ftp://host/run", ValueError, "store must be a path, a Store, or a URL of .*, got a 'ftp://' URL"),
    ],
)
def test_a_store_of_another_kind_is_refused(store, kind, message):
    with pytest.raises(kind, match=message):
        CheckpointExchange(store, peer="a")


def test_start_with_peers_in_lockstep_is_said_to_have_no_effect():
    with pytest.warns(CodistillWarning, match="start_with_peers has no effect in lockstep") as caught:
        CheckpointExchange(
            MemoryStore(),
            peer="a",
            peers=["a", "b"],
            lockstep=True,
            membership=Membership(start_with_peers=1),
        )
    assert caught[0].filename == __file__


def test_a_folder_that_cannot_be_written_is_found_at_construction(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(StoreError, match="store must be a folder that this process may make and write to"):
        CheckpointExchange(file / "run", peer="a")


def test_construction_leaves_the_store_alone(store):
    CheckpointExchange(store, peer="a")
    assert store.calls == []


def test_a_store_that_cannot_be_written_is_found_at_the_start(store, join):
    store.faults.fail("create", times=1)
    exchange = join(store, "a", begin=False)
    with pytest.raises(StoreError, match=r"create of 'run\.json'"):
        exchange.begin(Progress())
    exchange.begin(Progress())
    step(exchange, 1)
    assert load_snapshot(store, "a")[1].step == 1


def test_wrong_arguments_leave_the_store_alone(store):
    with pytest.raises(ValueError, match="peers must hold"):
        CheckpointExchange(store, peer="a", peers=["b"])
    assert store.calls == []


def test_a_path_is_a_store(tmp_path, join):
    exchange = join(str(tmp_path / "run"), "a")
    step(exchange, 1)
    assert load_snapshot(tmp_path / "run", "a")[1].step == 1


# The life of an exchange


def test_it_must_meet_a_student_first(store):
    exchange = CheckpointExchange(store, peer="a")
    for use in (
        lambda: exchange.begin(Progress()),
        lambda: exchange.predict(torch.zeros(1, 4), None),
        lambda: step(exchange, 1),
    ):
        with pytest.raises(RuntimeError, match="must be given to a Codistiller"):
            use()


def test_begin_twice_is_one_beginning(store, join):
    exchange = join(store, "a")
    exchange.begin(Progress())
    assert store.list_names("a/lives", limit=10) == ["0.json"]


def test_a_job_alone_publishes_nothing_at_its_start(store, join):
    exchange = join(store, "a")
    assert exchange.counters.publishes == 0
    assert store.list_names("a", limit=10) == ["lives", "status.json"]


def test_it_publishes_at_every_interval(store, join):
    exchange = join(store, "a", interval_steps=3)
    published = []
    for number in range(1, 10):
        step(exchange, number, samples=5 * number, task_loss=0.5)
        published.append(exchange.counters.publishes)
    assert published == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    info = load_snapshot(store, "a")[1]
    assert (info.step, info.samples, info.task_loss, info.interval_steps, info.finished) == (
        9,
        45,
        0.5,
        3,
        False,
    )


def test_two_snapshots_are_kept_by_default(store, join):
    exchange = join(store, "a")
    for number in range(1, 6):
        step(exchange, number)
    assert store.list_names("a/snapshots", limit=10) == ["0-3", "0-4"]


def test_as_many_snapshots_are_kept_as_asked_for(store, join):
    exchange = join(store, "a", snapshots=SnapshotOptions(keep=3))
    for number in range(1, 6):
        step(exchange, number)
    assert store.list_names("a/snapshots", limit=10) == ["0-2", "0-3", "0-4"]


def test_metadata_travels_with_every_snapshot(store, join):
    exchange = join(store, "a", snapshots=SnapshotOptions(metadata={"width": 4}))
    step(exchange, 1)
    assert load_snapshot(store, "a")[1].metadata == {"width": 4}
    other = join(store, "b")
    assert other.teachers["a"].metadata == {"width": 4}


def test_status_tells_who_is_read(store, join, publish):
    publish(store, "b", [1])
    exchange = join(store, "a")
    step(exchange, 1, samples=5)
    status = status_of(store, "a")
    assert (status.state, status.step, status.samples, status.reading) == ("running", 1, 5, {"b": (0, 0)})
    heartbeat = status.heartbeat
    step(exchange, 2)
    assert status_of(store, "a").heartbeat > heartbeat


def test_close_leaves_a_last_snapshot_marked_as_finished(store, join):
    exchange = join(store, "a", interval_steps=10)
    exchange.close(Progress(step=7, samples=70), publish=True)
    info = load_snapshot(store, "a")[1]
    assert (info.step, info.finished) == (7, True)
    assert status_of(store, "a").state == "finished"


def test_close_without_publish_leaves_the_one_before(store, join):
    exchange = join(store, "a")
    step(exchange, 1)
    exchange.close(Progress(step=2), publish=False)
    info = load_snapshot(store, "a")[1]
    assert (info.step, info.finished) == (1, False)
    assert status_of(store, "a").state == "left"


def test_a_second_close_does_nothing(store, join):
    exchange = join(store, "a")
    exchange.close(Progress(step=1), publish=True)
    before = len(store.calls)
    exchange.close(Progress(step=2), publish=True)
    assert len(store.calls) == before


def test_close_survives_a_store_that_is_away(store, join):
    exchange = join(store, "a")
    store.faults.fail("write")
    with pytest.warns(CodistillWarning, match="The test lets write of"):
        exchange.close(Progress(step=1), publish=True)


def test_a_publish_that_fails_is_tried_again(store, join):
    exchange = join(store, "a")
    store.faults.fail("write", times=1, key_contains="snapshots")
    with pytest.warns(CodistillWarning, match="it is tried again at a later interval"):
        step(exchange, 1)
    assert exchange.counters.publishes == 0
    step(exchange, 2)
    assert exchange.counters.publishes == 1
    assert load_snapshot(store, "a")[1].step == 2


def test_a_delete_that_fails_does_not_undo_the_publish(store, join):
    exchange = join(store, "a", snapshots=SnapshotOptions(keep=1))
    step(exchange, 1)
    store.faults.fail("delete", times=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CodistillWarning)  # it may be said or not
        step(exchange, 2)
    assert load_snapshot(store, "a")[1].step == 2
    assert exchange.counters.publishes == 2


def test_bytes_published_are_those_in_the_store(store, join):
    exchange = join(store, "a", snapshots=SnapshotOptions(keep=100))
    for number in (1, 2):
        step(exchange, number)
    snapshots = [
        len(store.read(f"a/snapshots/0-{i}/{name}", max_bytes=10**6))
        for i in range(2)
        for name in store.list_names(f"a/snapshots/0-{i}", limit=10)
    ]
    pointer = len(store.read("a/latest.json", max_bytes=10**6))
    assert exchange.counters.bytes_published == sum(snapshots) + 2 * pointer


# A name that has been used


def test_a_new_job_over_its_own_old_snapshots_is_refused(store, join, publish):
    publish(store, "a", [0, 5])
    exchange = join(store, "a", begin=False)
    with pytest.raises(RunExistsError, match=r"'a' has published step 5 .*rejoin=True") as caught:
        exchange.begin(Progress())
    assert (caught.value.peer, caught.value.step) == ("a", 5)
    assert store.list_names("a/lives", limit=10) == []


def test_a_snapshot_of_step_0_hinders_no_new_job(store, join, publish):
    publish(store, "a", [0])
    exchange = join(store, "a")
    step(exchange, 1)
    info = load_snapshot(store, "a")[1]
    assert (info.incarnation, info.sequence, info.step) == (1, 0, 1)


def test_old_snapshots_of_others_hinder_no_new_job(store, join, publish):
    publish(store, "b", [0, 5])
    assert join(store, "a").teachers["b"].step == 5


def test_rejoin_goes_on_under_the_name(store, join, publish):
    publish(store, "a", [0, 5])
    exchange = join(store, "a", membership=Membership(rejoin=True))
    step(exchange, 1)
    info = load_snapshot(store, "a")[1]
    assert (info.incarnation, info.sequence, info.step) == (1, 0, 1)


def test_a_loaded_state_goes_on_under_the_name(store, join):
    first = join(store, "a")
    step(first, 1)
    resumed = join(store, "a", state=first.state_dict(), step=1)
    step(resumed, 2)
    info = load_snapshot(store, "a")[1]
    assert (info.incarnation, info.sequence, info.step) == (1, 0, 2)


def test_rejoin_leaves_no_more_snapshots_than_are_kept(store, join):
    for _ in range(3):
        exchange = join(store, "a", membership=Membership(rejoin=True))
        for number in (1, 2, 3):
            step(exchange, number)
    assert store.list_names("a/snapshots", limit=10) == ["2-1", "2-2"]


def test_a_resumed_job_leaves_no_more_snapshots_than_are_kept(store, join):
    first = join(store, "a")
    step(first, 1)
    state = first.state_dict()
    for number in (2, 3):
        step(first, number)
    resumed = join(store, "a", state=state, step=1)
    for number in (2, 3):
        step(resumed, number)
    assert store.list_names("a/snapshots", limit=10) == ["1-0", "1-1"]


def test_a_start_that_failed_can_be_repeated_and_a_long_wait_is_logged(store, join, publish, caplog):
    exchange = join(
        store,
        "a",
        begin=False,
        clock=FakeClock(),
        peers=["a", "b"],
        membership=Membership(start_with_peers=1),
    )
    with pytest.raises(TimeoutError):
        exchange.begin(Progress())
    publish(store, "b", [0])
    exchange.begin(Progress())
    assert list(exchange.teachers) == ["b"]
    assert caplog.messages == [
        "Waiting for up to 600 s (start_with_peers) for the first snapshots of others: 0 of 1 are there. "
        "Start another job on this store, with a peer name of its own."
    ]


# State


def test_state_is_empty_before_the_start(store, join):
    assert join(store, "a", begin=False).state_dict() == {}


def test_loaded_state_comes_back_before_the_start(store, join, publish):
    publish(store, "b", [1])
    state = join(store, "a").state_dict()
    assert join(store, "a", state=state, begin=False).state_dict() == state


def test_state_holds_no_tensor_and_survives_json(store, join, publish):
    publish(store, "b", [1])
    exchange = join(store, "a")
    step(exchange, 1)
    state = json.loads(json.dumps(exchange.state_dict()))
    resumed = join(store, "a", state=state, step=1)
    assert resumed.teachers["b"].step == 1


def test_state_is_refused_after_the_start(store, join):
    exchange = join(store, "a")
    with pytest.raises(RuntimeError, match=r"State must be loaded before the first loss\(\)"):
        exchange.load_state_dict(exchange.state_dict())


def test_state_of_another_peer_is_refused(store, join):
    state = join(store, "b").state_dict()
    with pytest.raises(ValueError, match="state must be of peer 'a', got that of 'b'"):
        join(store, "a", state=state)


def test_state_of_another_run_is_warned_of_and_a_new_peer_starts(store, join):
    state = join(MemoryStore(), "a").state_dict()
    with pytest.warns(CodistillWarning, match="'a' resumes in another run than it was saved in"):
        exchange = join(store, "a", state=state, step=5)
    step(exchange, 6)
    assert load_snapshot(store, "a")[1].incarnation == 0


def test_malformed_state_is_refused(store, join):
    with pytest.raises(ValueError, match="must be there, got nothing"):
        join(store, "a", state={"peer": "a"})


def test_resumed_teachers_keep_their_age(store, join, publish):
    publish(store, "b", [1])
    exchange = join(store, "a")
    for number in (1, 2, 3):
        step(exchange, number)
    resumed = join(store, "a", state=exchange.state_dict(), step=3)
    assert resumed.teachers["b"].age_steps == 3


def test_a_resumed_peer_has_the_teacher_it_had_if_that_is_still_there(store, join, publish, weight_of):
    publish(store, "b", [1])
    exchange = join(store, "a")
    publish(store, "b", [2], incarnation=1)
    resumed = join(store, "a", state=exchange.state_dict())
    assert weight_of(resumed, "b") == 1.0
    step(resumed, 1)
    assert weight_of(resumed, "b") == 2.0


def test_a_resumed_peer_takes_the_newest_if_what_it_had_is_gone(store, join, publish, weight_of):
    publish(store, "b", [1])
    state = join(store, "a").state_dict()
    publish(store, "b", [2], incarnation=1)
    store.delete("b/snapshots/0-0/manifest.json")
    with pytest.warns(CodistillWarning, match="peer 'b' that this run had when it was saved") as caught:
        resumed = join(store, "a", state=state)
    assert len(caught) == 1
    assert weight_of(resumed, "b") == 2.0


@pytest.mark.parametrize(("gone", "there"), [("b", "c"), ("c", "b")])
def test_one_teacher_that_is_gone_changes_no_other(store, join, publish, weight_of, gone, there):
    for peer in ("b", "c"):
        publish(store, peer, [1])
    state = join(store, "a", topology="all").state_dict()
    for peer in ("b", "c"):
        publish(store, peer, [2], incarnation=1)
    store.delete(f"{gone}/snapshots/0-0/manifest.json")
    with pytest.warns(CodistillWarning, match=f"peer '{gone}' that this run had"):
        resumed = join(store, "a", topology="all", state=state)
    assert {peer: weight_of(resumed, peer) for peer in ("b", "c")} == {gone: 2.0, there: 1.0}


def test_a_resumed_peer_goes_on_where_neither_its_teacher_nor_the_newest_can_be_read(store, join, publish):
    publish(store, "b", [1])
    state = join(store, "a").state_dict()
    store.delete("b/snapshots/0-0/manifest.json")
    publish(store, "b", [2], incarnation=1, run_id="dead")
    with pytest.warns(CodistillWarning) as caught:
        resumed = join(store, "a", state=state)
    said = " ".join(str(warning.message) for warning in caught)
    assert "peer 'b' that this run had" in said
    assert "Nothing new was taken from peer 'b'" in said
    assert dict(resumed.teachers) == {}


# Peers and teachers


def test_identical_peers_are_noticed_once(store, join, make_model):
    first, second = join(store, "a", model=make_model(1.0)), join(store, "b", model=make_model(1.0))
    with pytest.warns(
        CodistillWarning, match="have identical weights at step 1: .*Seed every peer"
    ) as caught:
        step_in_turn(first, second, (1, 2, 3))
    said = [str(warning.message).split(" have ")[0] for warning in caught]
    assert said == ["Peers 'b' and 'a'", "Peers 'a' and 'b'"]  # each of them says it


def test_different_peers_are_not_taken_for_identical(store, join, make_model):
    first, second = join(store, "a", model=make_model(1.0)), join(store, "b", model=make_model(2.0))
    step_in_turn(first, second, (1, 2, 3))
    assert first.counters.publishes == 3


def test_an_unusual_state_is_named_and_not_just_broken(store, join):
    class WithExtraState(nn.Linear):
        def get_extra_state(self):
            return {"scale": 1.0}

        def set_extra_state(self, state):
            pass

    with pytest.raises(TypeError, match="_extra_state"):
        step(join(store, "a", model=WithExtraState(4, 3)), 1)


def test_a_tensor_that_cannot_be_published_is_named_before_training(store, join):
    model = nn.Linear(4, 3)
    model.register_buffer("spectrum", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(TypeError, match=r"state\['spectrum'\] must be .*complex64"):
        join(store, "a", model=model, interval_steps=50)


def test_build_makes_teachers_of_another_architecture(store, join, publish, make_model):
    publish(store, "b", [1], model=make_model(2.0, classes=7), metadata={"classes": 7})
    exchange = join(
        store,
        "a",
        teachers=TeacherOptions(build=lambda info: make_model(classes=info.metadata["classes"])),
    )
    (prediction,) = exchange.predict(torch.zeros(1, 4), None).peers
    assert torch.equal(prediction.target.logits, torch.full((1, 7), 2.0))


def test_tied_weights_are_published_once_and_taken_whole(store, join):
    class Tied(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(6, 4)
            self.decoder = nn.Linear(4, 6)
            self.decoder.weight = self.embedding.weight

        def forward(self, tokens):
            return self.decoder(self.embedding(tokens))

    models = {peer: Tied(seed) for seed, peer in enumerate("ab")}
    first, second = (join(store, peer, model=model) for peer, model in models.items())
    step(first, 1)
    step(second, 1)
    tokens = torch.arange(6)
    (prediction,) = second.predict(tokens, None).peers
    assert torch.equal(prediction.target.logits, models["a"](tokens))
    assert models["b"].decoder.weight is models["b"].embedding.weight
    teacher = second._life.classroom._teachers["a"]._module
    assert teacher.decoder.weight is teacher.embedding.weight


# What is published


@pytest.mark.parametrize("kind", ["copy", "average"])
def test_another_modules_weights_can_be_published(store, join, make_model, weight_of, kind):
    model = make_model(3.0)
    source = make_model(3.0) if kind == "copy" else AveragedModel(model)
    exchange = join(store, "a", model=model, snapshots=SnapshotOptions(publish_from=source))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(100.0)
    step(exchange, 1)
    state, _ = load_snapshot(store, "a")
    assert state.keys() == model.state_dict().keys()
    assert weight_of(join(store, "b"), "a") == 3.0
    exchange.close(Progress(step=2), publish=True)
    assert float(load_snapshot(store, "a")[0]["bias"][0]) == 3.0


def test_an_average_of_a_wrapped_student_has_the_students_names(store, join, make_model):
    model = torch.compile(make_model(3.0), backend="eager")
    exchange = join(store, "a", model=model, snapshots=SnapshotOptions(publish_from=AveragedModel(model)))
    step(exchange, 1)
    assert sorted(load_snapshot(store, "a")[0]) == ["bias", "weight"]


@pytest.mark.parametrize("misfit", [nn.Linear(4, 7), nn.Sequential(nn.Linear(4, 3))])
def test_what_is_published_must_have_the_students_names_and_shapes(store, join, misfit):
    exchange = join(store, "a", begin=False, snapshots=SnapshotOptions(publish_from=misfit))
    with pytest.raises(ValueError, match="publish_from must have the student's names and shapes, got"):
        exchange.begin(Progress())
    assert store.calls == []


@pytest.mark.parametrize(("codec", "largest_error"), [("exact", 0.0), ("bfloat16", 0.02), ("int8", 0.04)])
def test_all_codecs_reach_the_teacher(store, join, weight_of, codec, largest_error):
    torch.manual_seed(0)
    model, other = nn.Linear(64, 64), nn.Linear(64, 64)
    exchange = join(store, "a", model=model, snapshots=SnapshotOptions(codec=codec))
    step(exchange, 1)
    assert load_snapshot(store, "a")[1].codec == codec
    (prediction,) = join(store, "b", model=other).predict(torch.eye(64), None).peers
    difference = (prediction.target.logits - model(torch.eye(64)).detach()).abs().max()
    assert float(difference) <= largest_error
    assert (float(difference) > 0.0) == (codec != "exact")


# What an earlier life has left


def test_what_an_earlier_life_was_killed_while_writing_is_deleted_at_the_start(store, join):
    first = join(store, "a")
    step(first, 1)
    for name in store.list_names("a/snapshots/0-0", limit=10):
        store.write(f"a/snapshots/0-1/{name}", b"half of a snapsh")
    join(store, "a", membership=Membership(rejoin=True))
    assert store.list_names("a/snapshots", limit=10) == ["0-0"]


def test_a_life_that_was_killed_before_its_first_pointer_leaves_nothing(store, join):
    store.write("a/snapshots/0-0/shard-00001-of-00001.safetensors", b"half of a snapsh")
    store.write("a/snapshots/notes.txt", b"of the user")
    join(store, "a")
    assert store.list_names("a/snapshots", limit=10) == ["notes.txt"]


# Signatures


@pytest.fixture
def key_file(tmp_path):
    def make(name):
        file = tmp_path / name
        file.write_bytes(name.encode() * 32)
        file.chmod(0o600)
        return SnapshotOptions(signing_key_file=file)

    return make


def test_peers_that_share_a_key_teach_each_other(store, join, key_file):
    first = join(store, "a", snapshots=key_file("key"))
    second = join(store, "b", snapshots=key_file("key"))
    step_in_turn(first, second, (1, 2))
    assert list(first.teachers) == ["b"]
    assert list(second.teachers) == ["a"]


@pytest.mark.parametrize(
    ("options", "wrong"),
    [(None, "it is not signed"), ("other", "it is signed with another key, or was altered")],
)
def test_a_peer_without_the_key_is_refused_with_one_warning(store, join, key_file, options, wrong):
    exchange = join(store, "a", snapshots=key_file("key"))
    stranger = join(store, "b", snapshots=None if options is None else key_file(options))
    step(stranger, 1)
    with pytest.warns(CodistillWarning, match=f"'b' at step 1: .*must be signed .*{wrong}") as caught:
        step_often(exchange, 2)
    assert len(caught) == 1
    assert dict(exchange.teachers) == {}
    assert store.count("read", key_contains="b/snapshots") == 0


def test_a_peer_without_a_key_takes_signed_snapshots_as_they_are(store, join, key_file):
    step(join(store, "b", snapshots=key_file("key")), 1)
    assert list(join(store, "a").teachers) == ["b"]


def test_a_pointer_of_ones_own_that_somebody_else_wrote_is_refused_at_the_start(
    store, join, publish, key_file
):
    publish(store, "a", [0])
    with pytest.raises(SnapshotIntegrityError, match="it is not signed"):
        join(store, "a", snapshots=key_file("key"))


# What has been seen


def test_a_resumed_peer_never_goes_back_behind_what_it_had_seen(store, join, publish):
    publish(store, "b", [1])
    old = store.read("b/latest.json", max_bytes=10**4)
    publish(store, "b", [2], incarnation=1)
    state = join(store, "a").state_dict()
    assert state["seen"] == {"b": {"incarnation": 1, "sequence": 0, "first_seen_step": 0}}
    store.write("b/latest.json", old)
    store.delete("b/snapshots/1-0/manifest.json")
    with pytest.warns(CodistillWarning, match="peer 'b' that this run had when it was saved"):
        resumed = join(store, "a", state=state)
    step(resumed, 1)
    assert dict(resumed.teachers) == {}
    assert store.count("read", key_contains="b/snapshots/0-0") == 0
    publish(store, "b", [3], incarnation=2)
    step(resumed, 2)
    assert resumed.teachers["b"].step == 3


def test_a_resumed_peer_counts_the_silence_of_before(store, join, publish):
    publish(store, "b", [1])
    options = {"membership": Membership(max_age_steps=4, when_stale="drop")}
    exchange = join(store, "a", **options)
    for number in (1, 2, 3):
        step(exchange, number)
    resumed = join(store, "a", state=exchange.state_dict(), step=3, **options)
    step(resumed, 4)
    assert resumed.teachers["b"].share == 1.0
    with pytest.warns(CodistillWarning, match="nothing new for 5 steps"):
        step(resumed, 5)
    assert dict(resumed.teachers) == {}


def test_state_that_was_saved_before_readers_remembered_is_taken(store, join, publish):
    publish(store, "b", [1])
    state = join(store, "a").state_dict()
    del state["seen"]
    resumed = join(store, "a", state=state)
    assert resumed.teachers["b"].step == 1
    step(resumed, 1)
    assert resumed.state_dict()["seen"]["b"]["first_seen_step"] == 1
