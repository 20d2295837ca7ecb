"""Mistakes that other codistillation and distillation code has made, each kept out by a test of its own."""

import collections
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from codistill.codistiller import Codistiller
from codistill.errors import CodistillWarning
from codistill.exchange.checkpoint import CheckpointExchange, load_snapshot
from codistill.losses.divergences import Divergence
from codistill.stores.memory import MemoryStore
from codistill.testing.clock import FakeClock
from codistill.testing.faulty_store import FaultyStore
from codistill.testing.inline_background import InlineBackground


@pytest.fixture
def store():
    return FaultyStore(MemoryStore())


def make_model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))


def make_inputs(seed=100):
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))


class Peer:
    """A training job in a few lines."""

    def __init__(self, store, name, *, model=None, interval_steps=1, exchange=None, **options):
        self.model = make_model(ord(name)) if model is None else model
        made = CheckpointExchange(store, peer=name, interval_steps=interval_steps, **(exchange or {}))
        made.background, made.clock = InlineBackground(), FakeClock()
        self.codistiller = Codistiller(self.model, made, **options)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def train(self, steps=1):
        for _ in range(steps):
            inputs = make_inputs()
            loss = self.codistiller.loss(self.model(inputs), inputs)
            if loss.requires_grad:
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            self.report = self.codistiller.step()
        return self.report

    def predictions(self, inputs):
        return {p.peer: p.target.logits for p in self.codistiller.predict(inputs).peers}


def kl(student, teacher):
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean")


# Train and eval mode


def test_students_stay_in_train_mode(store):
    peers = [Peer(store, name) for name in "ab"]
    for _ in range(3):
        for peer in peers:
            peer.train()
            assert all(module.training for module in peer.model.modules())


def test_a_students_batch_norm_goes_on_learning(store):
    Peer(store, "b").train()
    peer = Peer(store, "a")
    for steps in range(1, 4):
        peer.train()
        assert peer.model[1].num_batches_tracked == steps


def test_a_student_in_eval_mode_stays_there(store):
    Peer(store, "b").train()
    peer = Peer(store, "a")
    peer.model.eval()
    peer.train(2)
    assert not any(module.training for module in peer.model.modules())


def test_teachers_predict_without_dropout_and_with_running_statistics(store):
    teacher = Peer(store, "b")
    teacher.train()
    peer = Peer(store, "a")
    inputs = make_inputs(3)
    with torch.no_grad():
        expected = teacher.model.eval()(inputs)
    assert torch.equal(peer.predictions(inputs)["b"], expected)


def test_a_teachers_batch_norm_does_not_learn_from_the_student(store):
    Peer(store, "b").train()
    peer = Peer(store, "a")
    inputs = make_inputs(3)
    before = peer.predictions(inputs)["b"]
    for _ in range(3):
        strange = make_inputs(4) + 100.0
        peer.codistiller.loss(peer.model(strange), strange)
    assert torch.equal(peer.predictions(inputs)["b"], before)


# What travels


def test_buffers_travel_with_the_weights(store):
    teacher = Peer(store, "b")
    teacher.train()
    state, _ = load_snapshot(store, "b")
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(state[name], teacher.model.state_dict()[name])


def test_teachers_are_the_peers_weights_of_that_step_and_nothing_later(store):
    teacher = Peer(store, "b", interval_steps=2)
    teacher.train(2)
    published = {name: tensor.clone() for name, tensor in teacher.model.state_dict().items()}
    with torch.no_grad():
        teacher.model[0].weight.add_(1.0)  # not published
    state, _ = load_snapshot(store, "b")
    assert all(torch.equal(tensor, published[name]) for name, tensor in state.items())


def test_a_snapshot_is_not_seen_before_it_is_whole(store):
    teacher, peer = Peer(store, "b"), Peer(store, "a")
    teacher.train()
    peer.train()
    store.faults.fail("write", key_contains="latest")  # shards and manifest arrive, the pointer does not
    with pytest.warns(CodistillWarning, match="Training goes on"):
        teacher.train()
    store.faults.clear()
    peer.train()
    assert peer.codistiller.teachers["b"].step == 1


# Gradients


def test_no_gradient_reaches_a_peer(store):
    teacher = Peer(store, "b")
    teacher.train()
    peer = Peer(store, "a")
    inputs = make_inputs().requires_grad_()
    peer.codistiller.loss(peer.model(inputs), inputs).backward()
    (stand_in,) = peer.codistiller._exchange._life.classroom._teachers.values()
    for module in (teacher.model, stand_in.module):
        assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(parameter.requires_grad for parameter in stand_in.module.parameters())
    assert all(parameter.grad is not None for parameter in peer.model.parameters())


def test_a_teacher_adds_nothing_to_the_gradient_of_the_inputs(store):
    Peer(store, "b").train()
    peer = Peer(store, "a", model=make_model(1))
    inputs = make_inputs().requires_grad_()
    logits = peer.model(inputs).detach().requires_grad_()
    peer.codistiller.loss(logits, inputs).backward()
    assert inputs.grad is None


def test_a_teacher_may_be_replaced_before_the_backward_pass(store):
    teacher, peer = Peer(store, "b"), Peer(store, "a")
    teacher.train()
    peer.train()
    inputs = make_inputs()
    old = peer.predictions(inputs)["b"].clone()
    logits = peer.model(inputs)
    loss = peer.codistiller.loss(logits, inputs)
    expected = torch.autograd.grad(kl(logits, old), logits, retain_graph=True)[0]
    with torch.no_grad():
        teacher.model[4].weight.mul_(-3.0)
    teacher.train()
    peer.codistiller.step()
    assert not torch.equal(peer.predictions(inputs)["b"], old)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], expected)


# The loss


def test_kl_is_from_the_teacher_to_the_student(store):
    Peer(store, "b").train()
    peer = Peer(store, "a")
    inputs = make_inputs()
    logits, taught = peer.model(inputs), peer.predictions(inputs)["b"]
    loss = peer.codistiller.loss(logits, inputs)
    torch.testing.assert_close(loss, kl(logits, taught))
    assert not torch.isclose(loss, kl(taught, logits))


def test_the_loss_is_a_mean_over_positions_and_a_sum_over_classes(store):
    Peer(store, "b").train()
    peer = Peer(store, "a")
    inputs = make_inputs()
    logits, taught = peer.model(inputs), peer.predictions(inputs)["b"]
    by_hand = (taught.softmax(-1) * (taught.log_softmax(-1) - logits.log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(peer.codistiller.loss(logits, inputs), by_hand)


def test_the_temperature_scales_once_by_its_square(store):
    Peer(store, "b").train()
    peer = Peer(store, "a", distillation_loss=Divergence("kl", temperature=4.0))
    inputs = make_inputs()
    logits, taught = peer.model(inputs), peer.predictions(inputs)["b"]
    torch.testing.assert_close(peer.codistiller.loss(logits, inputs), 16 * kl(logits / 4, taught / 4))


def test_three_peers_and_more_are_averaged_without_oneself(store):
    for name in "bcd":
        Peer(store, name).train()
    peer = Peer(store, "a", exchange={"topology": "all"})
    inputs = make_inputs()
    logits = peer.model(inputs)
    taught = peer.predictions(inputs)
    assert list(taught) == ["b", "c", "d"]
    expected = sum(kl(logits, taught[name]) for name in "bcd") / 3
    torch.testing.assert_close(peer.codistiller.loss(logits, inputs), expected)


# The user's model and checkpoint


@pytest.mark.parametrize("interval_steps", [1, 1000])
def test_teachers_are_no_part_of_the_users_model(store, interval_steps):
    Peer(store, "b").train()
    peer = Peer(store, "a", interval_steps=interval_steps)
    before = (
        list(peer.model.state_dict()),
        [id(parameter) for parameter in peer.model.parameters()],
        [id(module) for module in peer.model.modules()],
        [id(buffer) for buffer in peer.model.buffers()],
    )
    peer.train(2)
    assert list(peer.codistiller.teachers) == ["b"]
    assert before == (
        list(peer.model.state_dict()),
        [id(parameter) for parameter in peer.model.parameters()],
        [id(module) for module in peer.model.modules()],
        [id(buffer) for buffer in peer.model.buffers()],
    )


def test_a_sequential_student_stays_as_long_as_it_is(store):
    Peer(store, "b").train()
    peer = Peer(store, "a")
    peer.train()
    assert len(peer.model) == 5
    assert peer.model(make_inputs()).shape == (8, 3)


@pytest.mark.parametrize("container", [nn.ModuleList, nn.ModuleDict])
def test_other_containers_can_be_students(store, container):
    class Student(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            layers = {"first": nn.Linear(4, 6), "second": nn.Linear(6, 3)}
            self.layers = container(layers) if container is nn.ModuleDict else container(layers.values())

        def forward(self, inputs):
            layers = self.layers.values() if container is nn.ModuleDict else self.layers
            for layer in layers:
                inputs = layer(inputs)
            return inputs

    teacher = Peer(store, "b", model=Student(1))
    teacher.train()
    peer = Peer(store, "a", model=Student(2))
    inputs = make_inputs()
    assert torch.equal(peer.predictions(inputs)["b"], teacher.model(inputs))


def test_tied_weights_stay_tied(store):
    class Language(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(7, 4)
            self.decoder = nn.Linear(4, 7, bias=False)
            self.decoder.weight = self.embedding.weight

        def forward(self, tokens):
            return self.decoder(self.embedding(tokens))

    tokens = torch.arange(7)
    peers = {name: Peer(store, name, model=Language(ord(name))) for name in "ab"}
    for _ in range(2):
        for peer in peers.values():
            loss = peer.codistiller.loss(peer.model(tokens), tokens)
            if loss.requires_grad:
                loss.backward()
                peer.optimizer.step()
            peer.codistiller.step()
            assert peer.model.decoder.weight is peer.model.embedding.weight
    state, _ = load_snapshot(store, "b")
    fresh = Language(0)
    fresh.load_state_dict(state, strict=True)
    assert torch.equal(fresh(tokens), peers["b"].model(tokens))


def test_a_ddp_student_and_a_plain_one_understand_each_other(store):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = Peer(store, "a", model=DistributedDataParallel(make_model(1)))
        plain = Peer(store, "b")
        for _ in range(2):
            wrapped.train()
            plain.train()
        assert list(wrapped.codistiller.teachers) == ["b"]
        assert list(plain.codistiller.teachers) == ["a"]
        assert list(load_snapshot(store, "a")[0]) == list(load_snapshot(store, "b")[0])
        assert all(module.training for module in wrapped.model.modules())
    finally:
        dist.destroy_process_group()


def test_a_compiled_student_and_a_plain_one_understand_each_other(store):
    compiled = Peer(store, "a", model=torch.compile(make_model(1), backend="eager"))
    plain = Peer(store, "b")
    for _ in range(2):
        compiled.train()
        plain.train()
    assert list(compiled.codistiller.teachers) == ["b"]
    assert list(plain.codistiller.teachers) == ["a"]


def test_random_numbers_are_those_of_training_alone(store):
    Peer(store, "b").train()
    drawn = []
    for with_teacher in (False, True):
        model = make_model(1)
        peer = Peer(store, "a", model=model) if with_teacher else None
        torch.manual_seed(7)
        for _ in range(2):
            logits = model(make_inputs())
            if peer is not None:
                peer.codistiller.loss(logits, make_inputs())
                peer.codistiller.step()
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


# Resuming


def test_a_resumed_teacher_has_the_peers_weights_and_not_the_students(store):
    teacher = Peer(store, "b")
    teacher.train()
    peer = Peer(store, "a")
    peer.train()
    before = peer.predictions(make_inputs())["b"]
    resumed = Peer(store, "a")
    resumed.codistiller.load_state_dict(peer.codistiller.state_dict())
    assert torch.equal(resumed.predictions(make_inputs())["b"], before)


def test_resuming_does_something(store):
    peer = Peer(store, "a", weight=lambda step: float(step))
    peer.train(3)
    resumed = Peer(store, "a", weight=lambda step: float(step))
    resumed.codistiller.load_state_dict(peer.codistiller.state_dict())
    report = resumed.train()
    assert (report.step, report.samples, report.weight) == (4, 32, 3.0)


# Counters


def test_counters_are_cleared_and_steps_move(store):
    teacher, peer = Peer(store, "b"), Peer(store, "a", interval_steps=2)
    teacher.train()
    reports = []
    for number in range(4):
        if number == 1:
            teacher.train()
        reports.append(peer.train())
    assert [report.step for report in reports] == [1, 2, 3, 4]
    assert [report.fetched for report in reports] == [(), ("b",), (), ()]
    assert [report.samples for report in reports] == [8, 16, 24, 32]


def test_a_step_without_a_loss_reports_none(store):
    Peer(store, "b").train()
    peer = Peer(store, "a")
    assert peer.train().distillation_loss is not None
    assert peer.codistiller.step().distillation_loss is None


# The store


def test_named_peers_are_never_listed(store):
    peers = [Peer(store, name, exchange={"peers": ["a", "b"]}) for name in "ab"]
    for _ in range(3):
        for peer in peers:
            peer.train()
    for peer in peers:
        peer.codistiller.close()
    assert "" not in {call.key for call in store.calls if call.verb == "list_names"}


def test_snapshots_of_others_are_never_listed(store):
    peers = [Peer(store, name, interval_steps=2) for name in "ab"]
    for _ in range(4):
        for peer in peers:
            peer.train()
    listed = collections.Counter(call.key for call in store.calls if call.verb == "list_names")
    # Peers once at the start and once an interval; one's own snapshots once, for what an earlier life left.
    assert listed == {"": 2 * (1 + 2), "a/snapshots": 1, "b/snapshots": 1}


def test_the_newest_is_what_the_pointer_says_and_not_what_a_name_says(store):
    teacher, peer = Peer(store, "b"), Peer(store, "a")
    teacher.train()
    for name in store.list_names("b/snapshots/0-0", limit=10):
        content = store.read(f"b/snapshots/0-0/{name}", max_bytes=10**6)
        store.write(f"b/snapshots/999-999/{name}", content)
    peer.train()
    assert peer.codistiller.teachers["b"].sequence == 0
    assert store.count("read", key_contains="999") == 0


def test_a_peer_writes_under_its_own_name_only(store):
    Peer(store, "b").train()
    before = len(store.calls)
    peer = Peer(store, "a")
    peer.train(5)
    peer.codistiller.close()
    keys = {call.key for call in store.calls[before:] if call.verb in ("write", "create", "delete")}
    assert {key for key in keys if not key.startswith("a/")} == {
        "run.json"
    }  # created once, by whoever is first


def test_a_run_in_which_nobody_is_ever_read_is_told_loudly(store):
    peer = Peer(store, "a", exchange={"peers": ["a", "b"]})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        peer.train(100)
    assert [warning for warning in caught if issubclass(warning.category, CodistillWarning)] != []
