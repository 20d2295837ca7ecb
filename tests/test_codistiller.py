import copy
import io
import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codistill.codistiller import Codistiller
from codistill.errors import AdviceWarning, CodistillWarning, PeerTakenError, RunExistsError
from codistill.exchange.checkpoint import CheckpointExchange, Membership, load_snapshot
from codistill.exchange.teacher_options import TeacherOptions
from codistill.losses.divergences import Divergence
from codistill.schedules import AtDrops
from codistill.snapshots.status import Status
from codistill.stores.memory import MemoryStore
from codistill.testing.clock import FakeClock
from codistill.testing.faulty_store import FaultyStore
from codistill.testing.inline_background import InlineBackground
from codistill.testing.peers import run_peers

BATCH = 5


@pytest.fixture
def store():
    return FaultyStore(MemoryStore())


def make_model(seed):
    torch.manual_seed(seed)
    return nn.Linear(4, 3)


def make_inputs(seed=100):
    return torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(seed))


def make_peer(store, peer="a", *, model=None, interval_steps=1, exchange=None, **options):
    """Return a codistiller and its model."""
    model = make_model(ord(peer)) if model is None else model
    made = CheckpointExchange(store, peer=peer, interval_steps=interval_steps, **(exchange or {}))
    made.background, made.clock = InlineBackground(), FakeClock()
    return Codistiller(model, made, **options), model


def teach(store, peer="b", *, model=None, distillation_loss="kl"):
    """Let a peer publish once, and return its model."""
    codistiller, model = make_peer(store, peer, model=model, distillation_loss=distillation_loss)
    inputs = make_inputs()
    codistiller.loss(model(inputs), inputs)
    codistiller.step()
    return model


def kl(student, teacher):
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean")


class Counted(nn.Linear):
    """Counts its forwards, all instances together."""

    forwards = 0

    def forward(self, inputs):
        type(self).forwards += 1
        return super().forward(inputs)


@pytest.fixture
def counted():
    """Options for an exchange whose teachers count their forwards, and the counter."""
    Counted.forwards = 0
    return {"teachers": TeacherOptions(build=lambda info: Counted(4, 3))}


# Arguments


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"model": "resnet"}, TypeError, r"model must be a torch\.nn\.Module, got str"),
        ({"exchange": "s3://bucket"}, TypeError, "exchange must be an Exchange, got str.*CheckpointExchange"),
        ({"outputs_to_logits": "logits"}, TypeError, "outputs_to_logits must be a function, got str"),
        ({"distillation_loss": "l1"}, ValueError, "distillation_loss must be one of .*'kl'.*got 'l1'"),
        ({"distillation_loss": 5}, TypeError, "distillation_loss must be a name, .*got 5"),
        ({"combine": "mean"}, ValueError, "combine must be one of 'losses', .*got 'mean'"),
        (
            {"distillation_loss": "logit_mse", "combine": "probabilities"},
            ValueError,
            "combine must be 'losses' or 'logits' for 'logit_mse', got 'probabilities'",
        ),
        ({"weight": -1.0}, ValueError, r"weight must be .*>= 0, got -1\.0"),
        ({"weight": math.nan}, ValueError, "weight must be .*got nan"),
        ({"weight": "1"}, TypeError, "weight must be .*got '1'"),
        ({"burn_in_steps": -1}, ValueError, "burn_in_steps must be >= 0, got -1"),
        ({"burn_in_steps": 1.5}, TypeError, "burn_in_steps must be an int, got 1.5"),
    ],
)
def test_wrong_arguments_are_named(options, kind, message):
    arguments = {
        "model": nn.Linear(4, 3),
        "exchange": CheckpointExchange(MemoryStore(), peer="a"),
        **options,
    }
    with pytest.raises(kind, match=message):
        Codistiller(**arguments)


def test_an_exchange_belongs_to_one_codistiller(store):
    exchange = CheckpointExchange(store, peer="a")
    Codistiller(nn.Linear(4, 3), exchange)
    with pytest.raises(ValueError, match="exchange must be used by one Codistiller only"):
        Codistiller(nn.Linear(4, 3), exchange)


@pytest.mark.parametrize("timeout_s", [0, -1.0, math.nan])
def test_a_timeout_of_the_end_must_be_positive(store, timeout_s):
    codistiller, _ = make_peer(store)
    with pytest.raises(ValueError, match=f"timeout_s must be > 0, got {timeout_s}"):
        codistiller.close(timeout_s=timeout_s)
    codistiller.close()


@pytest.mark.parametrize("group", [5, "world", [0, 1]])
def test_a_group_must_be_one_of_torch(store, group):
    with pytest.raises(TypeError, match=r"group must be a torch\.distributed ProcessGroup, got"):
        make_peer(store, group=group)


def test_a_schedule_that_goes_wrong_is_named_with_its_step(store):
    codistiller, model = make_peer(store, weight=lambda step: 1.0 if step < 1 else -0.5)
    codistiller.loss(model(make_inputs()), make_inputs())
    codistiller.step()
    with pytest.raises(ValueError, match=r"weight must be finite and >= 0, got -0\.5 at step 1"):
        codistiller.loss(model(make_inputs()), make_inputs())


@pytest.mark.parametrize("logits", ["logits", None, [1.0]])
def test_logits_must_be_a_tensor(store, logits):
    codistiller, _ = make_peer(store)
    with pytest.raises(TypeError, match=f"logits must be a tensor, got {type(logits).__name__}"):
        codistiller.loss(logits, make_inputs())


@pytest.mark.parametrize("ranks", [1, 2])
def test_logits_that_ranks_divide_among_them_are_refused_at_once(store, ranks):
    codistiller, model = make_peer(store, "a")
    logits = model(make_inputs())
    logits.device_mesh = SimpleNamespace(size=lambda: ranks)
    with pytest.raises(TypeError, match=f"must be an ordinary tensor, got a DTensor over {ranks} ranks"):
        codistiller.loss(logits, make_inputs())


def test_logits_of_another_shape_than_the_teachers_are_refused(store):
    teach(store)
    codistiller, model = make_peer(store)
    message = (
        r"logits must have the shape of the teachers', got \[5, 2\] here and \[5, 3\] from peer 'b' at step 1"
    )
    with pytest.raises(ValueError, match=message):
        codistiller.loss(model(make_inputs())[:, :2], make_inputs())


def test_inputs_of_another_kind_are_refused(store):
    teach(store)
    codistiller, model = make_peer(store)
    with pytest.raises(TypeError, match="inputs must be a tensor, a tuple or a mapping, got list"):
        codistiller.loss(model(make_inputs()), [make_inputs()])


@pytest.mark.parametrize("denominator", [0, -1.0, math.nan])
def test_a_denominator_must_be_positive(store, denominator):
    teach(store)
    codistiller, model = make_peer(store)
    with pytest.raises(ValueError, match=f"denominator must be > 0, got {denominator}"):
        codistiller.loss(model(make_inputs()), make_inputs(), denominator=denominator)


def test_a_mask_must_be_boolean_and_of_the_batch(store):
    teach(store)
    codistiller, model = make_peer(store)
    logits = model(make_inputs())
    with pytest.raises(TypeError, match="mask must be a boolean tensor"):
        codistiller.loss(logits, make_inputs(), mask=torch.ones(BATCH))
    with pytest.raises(ValueError, match=r"mask must have one entry a position, \[5\], got \[4\]"):
        codistiller.loss(logits, make_inputs(), mask=torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize("samples", [-1, True])
def test_samples_must_not_be_negative(store, samples):
    codistiller, _ = make_peer(store)
    with pytest.raises((ValueError, TypeError), match=f"samples must be .*, got {samples}"):
        codistiller.step(samples=samples)


@pytest.mark.parametrize("samples", [32.0, "32", torch.tensor(32.0)])
def test_samples_must_be_an_int(store, samples):
    # It goes into the manifest, which readers refuse if it is anything else.
    codistiller, _ = make_peer(store)
    with pytest.raises(TypeError, match="samples must be"):
        codistiller.step(samples=samples)


@pytest.mark.parametrize("samples", [np.int64(32), torch.tensor(32)])
def test_samples_may_be_any_integer(store, samples):
    codistiller, _ = make_peer(store)
    assert codistiller.step(samples=samples).samples == 32
    assert type(codistiller.state_dict()["samples"]) is int


def test_a_task_loss_that_is_no_number_is_refused_at_once(store):
    codistiller, _ = make_peer(store, interval_steps=50)
    with pytest.raises(ValueError, match=r"task_loss must .*got .*\[2\]"):
        codistiller.step(task_loss=torch.ones(2))


# The loss


def test_without_a_teacher_the_loss_is_exactly_0(store):
    codistiller, model = make_peer(store)
    loss = codistiller.loss(model(make_inputs()), make_inputs())
    assert loss.shape == ()
    assert loss.item() == 0.0
    assert codistiller.step().distillation_loss is None


def test_the_loss_is_the_divergence_from_the_teacher(store):
    peer = teach(store)
    codistiller, model = make_peer(store)
    inputs = make_inputs(7)
    logits = model(inputs)
    loss = codistiller.loss(logits, inputs)
    torch.testing.assert_close(loss, kl(logits, peer(inputs)))
    expected = torch.autograd.grad(kl(model(inputs), peer(inputs).detach()), model.weight)[0]
    loss.backward()
    torch.testing.assert_close(model.weight.grad, expected)
    assert peer.weight.grad is None


def test_several_teachers_are_averaged(store):
    peers = [teach(store, peer) for peer in ("b", "c", "d")]
    codistiller, model = make_peer(store, exchange={"topology": "all"})
    logits = model(make_inputs())
    expected = sum(kl(logits, peer(make_inputs())) for peer in peers) / 3
    torch.testing.assert_close(codistiller.loss(logits, make_inputs()), expected)
    report = codistiller.step()
    assert list(report.teachers) == ["b", "c", "d"]
    assert report.teacher_samples == 3 * BATCH


@pytest.mark.parametrize("combine", ["losses", "probabilities", "logits"])
def test_all_ways_to_combine_reach_the_loss(store, combine):
    peers = [teach(store, peer) for peer in ("b", "c")]
    codistiller, model = make_peer(store, exchange={"topology": "all"}, combine=combine)
    logits = model(make_inputs())
    one, two = (peer(make_inputs()) for peer in peers)
    expected = {
        "losses": (kl(logits, one) + kl(logits, two)) / 2,
        "probabilities": kl(logits, ((one.softmax(-1) + two.softmax(-1)) / 2).log()),
        "logits": kl(logits, (one + two) / 2),
    }
    torch.testing.assert_close(codistiller.loss(logits, make_inputs()), expected[combine])


@pytest.mark.parametrize(
    "loss",
    ["logit_mse", Divergence("logit_mse"), lambda student, teacher: (student - teacher).square().mean(-1)],
)
def test_a_loss_is_a_name_an_object_or_a_function(store, loss):
    peer = teach(store)
    codistiller, model = make_peer(store, distillation_loss=loss)
    logits = model(make_inputs())
    expected = F.mse_loss(logits, peer(make_inputs()))
    torch.testing.assert_close(codistiller.loss(logits, make_inputs()), expected)


def test_mask_and_denominator_reach_the_loss(store):
    peer = teach(store)
    codistiller, model = make_peer(store)
    logits, mask = model(make_inputs()), torch.tensor([True, False, True, False, False])
    expected = kl(logits[mask], peer(make_inputs())[mask])
    torch.testing.assert_close(codistiller.loss(logits, make_inputs(), mask=mask), expected)
    halved = codistiller.loss(logits, make_inputs(), mask=mask, denominator=4)
    torch.testing.assert_close(halved, expected / 2)


def test_logits_without_a_batch_can_be_learnt_from(store):
    class Scalar(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs).squeeze()

    torch.manual_seed(0)
    teach(store, model=Scalar(4, 1), distillation_loss="bernoulli_kl")
    codistiller, model = make_peer(store, model=Scalar(4, 1), distillation_loss="bernoulli_kl")
    assert codistiller.loss(model(torch.ones(4)), torch.ones(4)).item() > 0.0
    report = codistiller.step()
    assert (report.samples, report.teacher_samples) == (1, 1)


@pytest.mark.parametrize("kind", ["tensor", "tuple", "mapping"])
def test_inputs_are_what_the_student_was_called_with(store, kind):
    peer = teach(store)
    codistiller, model = make_peer(store)
    tensor = make_inputs()
    inputs = {"tensor": tensor, "tuple": (tensor,), "mapping": {"input": tensor}}[kind]
    logits = model(tensor)
    torch.testing.assert_close(codistiller.loss(logits, inputs), kl(logits, peer(tensor)))


class Wordy(nn.Linear):
    def forward(self, inputs):
        return {"logits": super().forward(inputs)}


def test_outputs_to_logits_is_for_the_teacher(store):
    torch.manual_seed(0)
    peer, model = Wordy(4, 3), Wordy(4, 3)
    taught, _ = make_peer(store, "b", model=peer, outputs_to_logits=lambda outputs: outputs["logits"])
    taught.loss(peer(make_inputs())["logits"], make_inputs())
    taught.step()
    codistiller, _ = make_peer(store, model=model, outputs_to_logits=lambda outputs: outputs["logits"])
    logits = model(make_inputs())["logits"]
    expected = kl(logits, peer(make_inputs())["logits"])
    torch.testing.assert_close(codistiller.loss(logits, make_inputs()), expected)


def test_a_model_that_returns_more_than_logits_is_told_what_to_pass(store):
    torch.manual_seed(0)
    teach_with = Wordy(4, 3)
    taught, _ = make_peer(store, "b", model=teach_with)
    taught.loss(teach_with(make_inputs())["logits"], make_inputs())
    taught.step()
    codistiller, model = make_peer(store, model=Wordy(4, 3))
    with pytest.raises(TypeError, match=r"must be a tensor of logits, got dict.*outputs_to_logits"):
        codistiller.loss(model(make_inputs())["logits"], make_inputs())


def test_autocast_is_the_callers(store):
    teach(store)
    codistiller, model = make_peer(store)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(make_inputs())
        predictions = codistiller.predict(make_inputs())
        loss = codistiller.loss(logits, make_inputs())
    assert predictions.peers[0].target.logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32


def test_predictions_are_shared_by_two_heads(store, counted):
    peer = teach(store)
    codistiller, model = make_peer(store, exchange=counted)
    other_head = make_model(5)
    predictions = codistiller.predict(make_inputs())
    for head in (model, other_head):
        logits = head(make_inputs())
        torch.testing.assert_close(codistiller.loss(logits, predictions), kl(logits, peer(make_inputs())))
    assert Counted.forwards == 1
    assert codistiller.step().teacher_samples == BATCH


def test_a_batch_that_two_heads_share_counts_its_samples_once(store):
    teach(store)
    codistiller, model = make_peer(store)
    predictions = codistiller.predict(make_inputs())
    for _ in range(2):
        codistiller.loss(model(make_inputs()), predictions)
    assert codistiller.step().samples == BATCH


def test_early_predictions_begin_the_run(store):
    teach(store)
    codistiller, model = make_peer(store)
    predictions = codistiller.predict(make_inputs())
    assert [prediction.peer for prediction in predictions.peers] == ["b"]
    assert not predictions.peers[0].target.logits.requires_grad
    assert codistiller.loss(model(make_inputs()), predictions).item() > 0.0


def test_empty_predictions_give_exactly_0(store):
    codistiller, model = make_peer(store)
    predictions = codistiller.predict(make_inputs())
    assert predictions.peers == ()
    assert codistiller.loss(model(make_inputs()), predictions).item() == 0.0


# Weight and burn-in


def test_the_weight_multiplies_and_the_report_does_not(store):
    peer = teach(store)
    codistiller, model = make_peer(store, weight=0.25)
    logits = model(make_inputs())
    unweighted = kl(logits, peer(make_inputs()))
    torch.testing.assert_close(codistiller.loss(logits, make_inputs()), 0.25 * unweighted)
    report = codistiller.step()
    assert report.weight == 0.25
    torch.testing.assert_close(report.distillation_loss.float(), unweighted.detach())
    assert not report.distillation_loss.requires_grad


def test_the_weight_follows_its_schedule(store):
    teach(store)
    codistiller, model = make_peer(store, weight=lambda step: 0.5 * step)
    weights, losses = [], []
    for _ in range(3):
        losses.append(codistiller.loss(model(make_inputs()), make_inputs()).item())
        weights.append(codistiller.step().weight)
    assert weights == [0.0, 0.5, 1.0]
    assert losses[0] == 0.0
    assert losses[2] == pytest.approx(2 * losses[1])


def test_a_weight_of_0_costs_no_forward(store, counted):
    teach(store)
    codistiller, model = make_peer(store, weight=0.0, exchange=counted)
    assert codistiller.loss(model(make_inputs()), make_inputs()).item() == 0.0
    assert codistiller.predict(make_inputs()).peers == ()
    assert Counted.forwards == 0


def test_burn_in_is_exactly_0_without_a_forward_and_then_ends(store, counted):
    teach(store)
    codistiller, model = make_peer(store, burn_in_steps=2, exchange=counted)
    losses, forwards, weights = [], [], []
    for _ in range(4):
        codistiller.predict(make_inputs())
        losses.append(codistiller.loss(model(make_inputs()), make_inputs()).item())
        forwards.append(Counted.forwards)
        weights.append(codistiller.step().weight)
    assert losses[:2] == [0.0, 0.0]
    assert losses[2] > 0.0
    assert forwards == [0, 0, 2, 4]
    assert weights == [0.0, 0.0, 1.0, 1.0]


def test_a_peer_publishes_during_burn_in(store):
    codistiller, model = make_peer(store, burn_in_steps=100)
    codistiller.loss(model(make_inputs()), make_inputs())
    assert codistiller.step().published
    assert load_snapshot(store, "a")[1].step == 1


# Evaluation


def test_under_no_grad_nothing_begins(store):
    codistiller, model = make_peer(store)
    before = len(store.calls)
    with torch.no_grad():
        assert codistiller.loss(model(make_inputs()), make_inputs()).item() == 0.0
        assert codistiller.predict(make_inputs()).peers == ()
    assert len(store.calls) == before


def test_under_no_grad_nothing_is_counted(store):
    peer = teach(store)
    codistiller, model = make_peer(store)
    codistiller.loss(model(make_inputs()), make_inputs())
    with torch.no_grad():
        inputs = make_inputs(3)
        loss = codistiller.loss(model(inputs), inputs)
        torch.testing.assert_close(loss, kl(model(inputs), peer(inputs)))
    report = codistiller.step()
    assert (report.samples, report.teacher_samples) == (BATCH, BATCH)
    expected = kl(model(make_inputs()), peer(make_inputs())).detach()
    torch.testing.assert_close(report.distillation_loss.float(), expected)


# Steps


def test_a_step_may_have_several_losses(store):
    peer = teach(store)
    codistiller, model = make_peer(store)
    batches = [make_inputs(seed) for seed in range(3)]
    for inputs in batches:
        codistiller.loss(model(inputs), inputs)
    report = codistiller.step()
    assert (report.step, report.samples, report.teacher_samples) == (1, 3 * BATCH, 3 * BATCH)
    expected = torch.stack([kl(model(inputs), peer(inputs)) for inputs in batches]).mean()
    torch.testing.assert_close(report.distillation_loss.float(), expected.detach())


def test_samples_are_counted_afresh_each_step(store):
    codistiller, model = make_peer(store)
    samples = []
    for count in (5, 3, 1):
        inputs = make_inputs()[:count]
        codistiller.loss(model(inputs), inputs)
        samples.append(codistiller.step().samples)
    assert samples == [5, 8, 9]


def test_samples_may_be_told(store):
    codistiller, model = make_peer(store)
    codistiller.loss(model(make_inputs()), make_inputs())
    assert codistiller.step(samples=320).samples == 320
    codistiller.loss(model(make_inputs()), make_inputs())
    assert codistiller.step(samples=0).samples == 320


def test_a_loss_that_failed_and_is_repeated_counts_once(store):
    teach(store)
    codistiller, model = make_peer(store)
    with pytest.raises(ValueError, match="logits must have the shape"):
        codistiller.loss(model(make_inputs())[:, :2], make_inputs())
    codistiller.loss(model(make_inputs()), make_inputs())
    report = codistiller.step()
    assert (report.samples, report.teacher_samples) == (BATCH, BATCH)


def test_the_task_loss_is_published_as_a_mean_since_the_last_publish(store):
    codistiller, model = make_peer(store, interval_steps=2)
    published = []
    for task_loss in (1.0, torch.tensor(3.0), torch.tensor(5.0, requires_grad=True), 6.0):
        codistiller.loss(model(make_inputs()), make_inputs())
        if codistiller.step(task_loss=task_loss).published:
            published.append(load_snapshot(store, "a")[1].task_loss)
    assert published == [2.0, 5.5]


def test_the_report_says_what_the_exchange_did(store):
    teach(store)
    codistiller, model = make_peer(store, interval_steps=2)
    reports = []
    for _ in range(4):
        codistiller.loss(model(make_inputs()), make_inputs())
        reports.append(codistiller.step())
        if len(reports) == 2:
            again, _ = make_peer(store, "b", exchange={"membership": Membership(rejoin=True)})
            again.loss(model(make_inputs()), make_inputs())
            again.step(samples=4 * BATCH)  # with half of this peer's samples or more it teaches
    assert [report.step for report in reports] == [1, 2, 3, 4]
    assert [report.published for report in reports] == [False, True, False, True]
    assert [report.fetched for report in reports] == [(), (), (), ("b",)]
    assert [dict(report.teachers) for report in reports] == [{"b": 1}, {"b": 2}, {"b": 3}, {"b": 0}]
    assert [report.teacher_share for report in reports] == [1.0] * 4
    assert reports[0].bytes_published == 0 < reports[1].bytes_published < reports[3].bytes_published
    assert 0 < reports[0].bytes_fetched < reports[3].bytes_fetched
    assert reports[3].stall_s > 0.0


def test_the_teacher_share_counts_all_steps(store):
    codistiller, model = make_peer(store)
    shares = []
    for number in range(4):
        if number == 1:
            teach(store)  # taken at the end of the second step
        codistiller.loss(model(make_inputs()), make_inputs())
        shares.append(codistiller.step().teacher_share)
    assert shares == [0.0, 0.0, pytest.approx(1 / 3), 0.5]


def test_the_status_shows_the_distillation_loss(store):
    teach(store)
    codistiller, model = make_peer(store)
    codistiller.loss(model(make_inputs()), make_inputs())
    report = codistiller.step(task_loss=0.5)
    status = Status.from_json(store.read("a/status.json", max_bytes=10**5), key="a/status.json")
    assert status.distillation_loss == pytest.approx(report.distillation_loss.item())
    assert status.task_loss == 0.5


def test_teachers_are_described(store):
    teach(store)
    codistiller, model = make_peer(store)
    assert dict(codistiller.teachers) == {}
    codistiller.loss(model(make_inputs()), make_inputs())
    info = codistiller.teachers["b"]
    assert (info.peer, info.incarnation, info.sequence, info.step, info.samples) == ("b", 0, 0, 1, BATCH)


def test_a_thousand_losses_without_a_step_are_warned_of_once(store):
    codistiller, model = make_peer(store)
    logits = model(make_inputs())
    for _ in range(999):
        codistiller.loss(logits, make_inputs())
    with pytest.warns(CodistillWarning, match=r"loss\(\) was called 1000 times without step\(\)") as caught:
        codistiller.loss(logits, make_inputs())
    assert caught[0].filename == __file__
    for _ in range(2000):
        codistiller.loss(logits, make_inputs())


def test_steps_and_evaluation_do_not_bring_that_warning(store):
    codistiller, model = make_peer(store, interval_steps=10_000)
    logits = model(make_inputs())
    for _ in range(2):
        for _ in range(999):
            codistiller.loss(logits, make_inputs())
        codistiller.step()
    with torch.no_grad():
        for _ in range(1000):
            codistiller.loss(logits, make_inputs())


def test_that_warning_allows_for_two_intervals(store):
    codistiller, model = make_peer(store, interval_steps=600)
    logits = model(make_inputs())
    for _ in range(1199):
        codistiller.loss(logits, make_inputs())
    with pytest.warns(CodistillWarning, match="1200 times"):
        codistiller.loss(logits, make_inputs())


# State


def plain_copy(state):
    """Return the state as it comes out of a file, without pickle."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "through", [plain_copy, lambda state: json.loads(json.dumps(state))], ids=["torch", "json"]
)
def test_a_resumed_codistiller_goes_on_where_it_was(store, through):
    teach(store)
    codistiller, model = make_peer(store, interval_steps=3, weight=lambda step: float(step))
    for task_loss in (1.0, 2.0):
        codistiller.loss(model(make_inputs()), make_inputs())
        before = codistiller.step(task_loss=task_loss)
    state = through(codistiller.state_dict())
    resumed, _ = make_peer(store, model=model, interval_steps=3, weight=lambda step: float(step))
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.loss(model(make_inputs()), make_inputs())
    report = resumed.step(task_loss=6.0)
    assert (report.step, report.samples, report.weight) == (3, 3 * BATCH, 2.0)
    assert (report.teacher_samples, report.teacher_share) == (before.teacher_samples + BATCH, 1.0)
    assert dict(report.teachers) == {"b": 3}
    assert load_snapshot(store, "a")[1].task_loss == pytest.approx(3.0)


def test_state_of_a_job_that_has_not_begun_can_be_loaded(store):
    state = make_peer(store)[0].state_dict()
    codistiller, model = make_peer(store)
    codistiller.load_state_dict(plain_copy(state))
    codistiller.loss(model(make_inputs()), make_inputs())
    assert codistiller.step().step == 1


def test_state_after_the_first_loss_is_refused(store):
    codistiller, model = make_peer(store)
    codistiller.loss(model(make_inputs()), make_inputs())
    with pytest.raises(RuntimeError, match=r"before the first loss\(\)"):
        codistiller.load_state_dict(codistiller.state_dict())


def test_state_of_another_peer_is_refused_and_changes_nothing(store):
    other, model = make_peer(store, "b")
    other.loss(model(make_inputs()), make_inputs())
    other.step()
    codistiller, model = make_peer(store)
    before = codistiller.state_dict()
    with pytest.raises(ValueError, match="state must be of peer 'a', got that of 'b'"):
        codistiller.load_state_dict(other.state_dict())
    assert codistiller.state_dict() == before


def test_state_of_another_run_is_warned_of(store):
    first, model = make_peer(MemoryStore())
    first.loss(model(make_inputs()), make_inputs())
    first.step()
    codistiller, _ = make_peer(store)
    codistiller.load_state_dict(first.state_dict())
    with pytest.warns(CodistillWarning, match="another run"):
        codistiller.loss(model(make_inputs()), make_inputs())
    assert codistiller.step().step == 2


@pytest.mark.parametrize("version", [2, None, "1"])
def test_state_of_another_version_is_refused(store, version):
    codistiller, _ = make_peer(store)
    with pytest.raises(ValueError, match=f"version.* got .?{version}"):
        codistiller.load_state_dict(codistiller.state_dict() | {"version": version})


@pytest.mark.parametrize("field", ["version", "step", "samples", "task_loss", "exchange"])
def test_an_incomplete_state_is_refused_and_changes_nothing(store, field):
    codistiller, _ = make_peer(store)
    before = codistiller.state_dict()
    with pytest.raises(ValueError, match=f"state.{field} must be there"):
        codistiller.load_state_dict({name: value for name, value in before.items() if name != field})
    with pytest.raises(ValueError, match=r"state\.step must be an integer"):
        codistiller.load_state_dict(before | {"step": -5})
    assert codistiller.state_dict() == before


def test_a_step_after_the_end_is_refused(store):
    codistiller, _ = make_peer(store)
    codistiller.close()
    with pytest.raises(RuntimeError, match="has been closed"):
        codistiller.step()


# The start


def test_a_job_over_its_own_old_snapshots_is_refused_at_the_first_loss(store):
    teach(store, "a")
    codistiller, model = make_peer(store)  # not yet: state may be loaded after construction
    with pytest.raises(RunExistsError, match="'a' has published step 1"):
        codistiller.loss(model(make_inputs()), make_inputs())


def test_a_start_that_timed_out_can_be_repeated(store):
    exchange = CheckpointExchange(
        store, peer="a", interval_steps=1, membership=Membership(start_with_peers=1, start_timeout_s=5)
    )
    exchange.background, exchange.clock = InlineBackground(), FakeClock()
    model = make_model(1)
    codistiller = Codistiller(model, exchange)
    with pytest.raises(TimeoutError, match="start_with_peers must be met"):
        codistiller.loss(model(make_inputs()), make_inputs())
    teach(store)
    assert codistiller.loss(model(make_inputs()), make_inputs()).item() > 0.0
    report = codistiller.step()
    assert (report.step, report.samples) == (1, BATCH)


def test_two_peers_teach_each_other(store):
    def train(peer):
        model = nn.Linear(4, 3)
        with torch.no_grad():
            model.weight.fill_(float(peer == "a"))
            model.bias.zero_()
            model.weight[0].fill_(float(peer == "b"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        exchange = CheckpointExchange(store, peer=peer, peers=["a", "b"], interval_steps=1, lockstep=True)
        first = last = None
        with Codistiller(model, exchange) as codistiller:
            for _ in range(30):
                loss = codistiller.loss(model(make_inputs()), make_inputs())
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                last = codistiller.step().distillation_loss.item()
                first = last if first is None else first
        return first, last

    for first, last in run_peers(train, ["a", "b"]).values():
        assert last < 0.01 * first


# The end


def test_the_context_closes_with_a_finished_snapshot(store):
    codistiller, model = make_peer(store, interval_steps=10)
    with codistiller as entered:
        assert entered is codistiller
        codistiller.loss(model(make_inputs()), make_inputs())
        codistiller.step(task_loss=1.5)
    info = load_snapshot(store, "a")[1]
    assert (info.step, info.samples, info.task_loss, info.finished) == (1, BATCH, 1.5, True)


def test_after_an_error_the_context_leaves_no_snapshot(store):
    codistiller, model = make_peer(store, interval_steps=10)

    def train():
        with codistiller:
            codistiller.loss(model(make_inputs()), make_inputs())
            codistiller.step()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert "latest.json" not in store.list_names("a", limit=10)
    status = Status.from_json(store.read("a/status.json", max_bytes=10**5), key="a/status.json")
    assert status.state == "left"


def test_close_twice_writes_once(store):
    codistiller, model = make_peer(store)
    codistiller.loss(model(make_inputs()), make_inputs())
    codistiller.close()
    before = len(store.calls)
    codistiller.close()
    codistiller.close(publish=False)
    assert len(store.calls) == before


def test_close_without_publish_leaves_the_last_snapshot(store):
    codistiller, model = make_peer(store)
    codistiller.loss(model(make_inputs()), make_inputs())
    codistiller.step()
    codistiller.close(publish=False)
    assert not load_snapshot(store, "a")[1].finished


def test_close_before_the_first_loss_leaves_nothing(store):
    with make_peer(store)[0]:
        pass
    assert store.list_names("", limit=10) == []


def test_nothing_works_after_close(store):
    teach(store)
    codistiller, model = make_peer(store)
    codistiller.loss(model(make_inputs()), make_inputs())
    codistiller.close()
    with pytest.raises(RuntimeError, match="has been closed"):
        codistiller.loss(model(make_inputs()), make_inputs())
    with pytest.raises(RuntimeError, match="has been closed"):
        codistiller.step()


def test_nothing_works_after_close_before_the_first_loss(store):
    codistiller, model = make_peer(store, weight=0.0)
    codistiller.close()
    with pytest.raises(RuntimeError, match="has been closed"):
        codistiller.loss(model(make_inputs()), make_inputs())


# Teachers that count less


def grow_old(store, when_stale, steps):
    """Let a student train beside a peer that is silent; return its reports and losses."""
    teach(store)
    membership = Membership(max_age_steps=2, when_stale=when_stale)
    codistiller, model = make_peer(store, exchange={"peers": ["a", "b"], "membership": membership})
    reports, losses = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CodistillWarning)  # of what is old
        for _ in range(steps):
            losses.append(codistiller.loss(model(make_inputs()), make_inputs()).item())
            reports.append(codistiller.step())
    return reports, losses


@pytest.mark.parametrize(
    ("when_stale", "shares"),
    [
        ("fade", [1.0, 1.0, 0.5, 0.0, 0.0]),
        ("drop", [1.0, 1.0, 0.0, 0.0, 0.0]),
        ("keep", [1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_reports_and_losses_follow_a_teachers_share(store, when_stale, shares):
    reports, losses = grow_old(store, when_stale, 6)
    assert [report.shares["b"] for report in reports] == [*shares, shares[-1]]
    # The share after a step is that of the next step's loss; the student itself stays as it is.
    assert losses[1:] == pytest.approx([losses[0] * share for share in shares])
    assert [report.teachers["b"] for report in reports] == [1, 2, 3, 4, 5, 6]


def test_the_teacher_share_counts_no_step_whose_teachers_all_count_nothing(store):
    reports, losses = grow_old(store, "drop", 6)
    counted = [loss > 0.0 for loss in losses]
    assert counted == [True, True, True, False, False, False]
    assert [report.teacher_share for report in reports] == pytest.approx(
        [sum(counted[:steps]) / steps for steps in range(1, 7)]
    )
    assert reports[-1].teacher_samples == 3 * BATCH
    assert [report.distillation_loss is None for report in reports] == [False] * 3 + [True] * 3


def test_predictions_that_are_no_numbers_leave_the_loss_exactly_0(store):
    wild = make_model(1)
    with torch.no_grad():
        wild.bias.fill_(3e38)
        wild.weight.fill_(3e38)
    teach(store, model=wild)
    codistiller, model = make_peer(store)
    inputs = make_inputs().abs()
    for _ in range(9):
        loss = codistiller.loss(model(inputs), inputs)
        assert loss.item() == 0.0
        (gradient,) = torch.autograd.grad(loss, model.weight)
        assert not gradient.any()
        assert codistiller.step().quarantined == ()
    codistiller.loss(model(inputs), inputs)
    with pytest.warns(CodistillWarning, match="'b' is not learnt from since step 10"):
        report = codistiller.step()
    assert (report.quarantined, report.shares) == (("b",), {"b": 0.0})


def test_one_bad_teacher_of_two_leaves_the_other(store):
    good, wild = make_model(1), make_model(2)
    with torch.no_grad():
        wild.bias.fill_(3e38)
        wild.weight.fill_(3e38)
    teach(store, "b", model=good)
    teach(store, "c", model=wild)
    codistiller, model = make_peer(store, exchange={"topology": "all"})
    inputs = make_inputs().abs()
    logits = model(inputs)
    torch.testing.assert_close(codistiller.loss(logits, inputs), kl(logits, good(inputs)))


# A term that diverges


def train(codistiller, model, steps):
    """Return the reports of so many steps."""
    reports = []
    for _ in range(steps):
        codistiller.loss(model(make_inputs()), make_inputs())
        reports.append(codistiller.step(task_loss=1.0))
    return reports


def infinite(student, teacher):
    return torch.full(student.shape[:-1], math.inf) + 0.0 * student.sum(-1)


def test_a_term_that_diverges_halves_its_weight_and_is_said_once(store):
    teach(store)
    codistiller, model = make_peer(store, distillation_loss=infinite, weight=0.8, interval_steps=100)
    with pytest.warns(CodistillWarning, match="diverges at step 20, .*: its weight is halved") as caught:
        reports = train(codistiller, model, 41)
    assert len(caught) == 1
    assert [report.weight_factor for report in reports] == [1.0] * 19 + [0.5] * 20 + [0.25] * 2
    assert [reports[index].weight for index in (0, 19, 20, 39, 40)] == [0.8, 0.8, 0.4, 0.4, 0.2]


def test_a_resumed_codistiller_goes_on_with_the_lower_weight(store):
    teach(store)
    codistiller, model = make_peer(store, distillation_loss=infinite, interval_steps=100)
    with pytest.warns(CodistillWarning, match="diverges"):
        train(codistiller, model, 20)
    state = json.loads(json.dumps(codistiller.state_dict()))
    resumed, _ = make_peer(store, model=model, interval_steps=100)
    resumed.load_state_dict(state)
    resumed.loss(model(make_inputs()), make_inputs())
    report = resumed.step()
    assert (report.weight_factor, report.weight) == (0.5, 0.5)


def test_in_lockstep_a_term_that_diverges_is_only_said(store):
    other, other_model = make_peer(store, "b", interval_steps=100)
    other.loss(other_model(make_inputs()), make_inputs())
    other.close()
    options = {"peers": ["a", "b"], "lockstep": True}
    codistiller, model = make_peer(store, interval_steps=100, exchange=options, distillation_loss=infinite)
    with pytest.warns(
        CodistillWarning, match="diverges at step 20, .*: nothing is changed, in lock"
    ) as caught:
        reports = train(codistiller, model, 60)
    report = reports[-1]
    assert len(caught) == 1
    assert (report.weight_factor, report.weight) == (1.0, 1.0)


def test_state_that_was_saved_before_there_was_a_guard_is_taken(store):
    codistiller, model = make_peer(store)
    codistiller.loss(model(make_inputs()), make_inputs())
    codistiller.step()
    state = codistiller.state_dict()
    del state["guard"]
    del state["exchange"]["seen"]
    resumed, _ = make_peer(store, model=model)
    resumed.load_state_dict(state)
    resumed.loss(model(make_inputs()), make_inputs())
    assert resumed.step().step == 2


def test_a_guard_that_is_malformed_changes_nothing(store):
    codistiller, _ = make_peer(store)
    before = codistiller.state_dict()
    with pytest.raises(ValueError, match=r"guard\.factor must be between 0 and 1, got 7"):
        codistiller.load_state_dict(before | {"step": 5, "guard": before["guard"] | {"factor": 7.0}})
    assert codistiller.state_dict() == before


# A name that is taken


def test_a_peer_whose_name_is_taken_over_says_so_at_the_next_step(store):
    codistiller, model = make_peer(store)
    codistiller.loss(model(make_inputs()), make_inputs())
    codistiller.step()
    store.create("a/lives/1.json", b"{}")
    codistiller.loss(model(make_inputs()), make_inputs())
    codistiller.step()  # the heart beats when the snapshot is written
    codistiller.loss(model(make_inputs()), make_inputs())
    with pytest.raises(PeerTakenError, match="'a' has been taken over"):
        codistiller.step()
    codistiller.close()
    assert not load_snapshot(store, "a")[1].finished


def test_skipped_intervals_are_in_the_report(store):
    codistiller, model = make_peer(store, exchange={"peers": ["a"]})
    store.faults.fail("write", times=2, key_contains="snapshots")
    with pytest.warns(CodistillWarning, match="Training goes on"):
        reports = train(codistiller, model, 4)
    assert [report.published for report in reports] == [False, False, False, True]
    assert [report.publishes_skipped for report in reports] == [0, 0, 1, 1]


# Agreement and advice


def test_agreement_is_reported_from_the_20th_step_on_and_told_to_others(store):
    teacher = teach(store)
    codistiller, model = make_peer(store, interval_steps=50)
    inputs = make_inputs()
    expected = (model(inputs).argmax(-1) == teacher(inputs).argmax(-1)).float().mean().item()
    reports = []
    for _ in range(21):
        codistiller.loss(model(inputs), inputs)
        reports.append(codistiller.step(task_loss=1.0))
    assert [report.agreement for report in reports] == [None] * 19 + [pytest.approx(expected)] * 2
    codistiller.close()
    status = Status.from_json(store.read("a/status.json", max_bytes=10**5), key="a/status.json")
    assert status.agreement == {"b": pytest.approx(expected)}
    assert status.stall_s > 0


def test_of_teachers_that_count_no_more_nothing_is_told(store):
    teach(store)
    codistiller, model = make_peer(
        store, interval_steps=10, exchange={"membership": Membership(max_age_steps=20, when_stale="drop")}
    )
    inputs = make_inputs()
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CodistillWarning)
        for _ in range(40):
            codistiller.loss(model(inputs), inputs)
            report = codistiller.step(task_loss=1.0)
            told.append((report.agreement is not None, bool(report.teachers)))
    assert told[19] == (True, True)
    assert told[-1] == (False, False)
    codistiller.close()
    status = Status.from_json(store.read("a/status.json", max_bytes=10**5), key="a/status.json")
    assert (status.distillation_loss, status.agreement, status.advice) == (None, {}, ())


def test_after_the_end_of_a_weight_nothing_is_told_of_what_it_weighed(store):
    model = make_model(0)
    teach(store, model=copy.deepcopy(model))
    codistiller, _ = make_peer(
        store, model=model, interval_steps=100, weight=lambda step: 1.0 if step < 230 else 0.0
    )
    inputs = make_inputs()

    def tell_after(steps):
        for _ in range(steps):
            codistiller.loss(model(inputs), inputs)
            codistiller.step()
        return codistiller._progress(with_losses=True)

    with pytest.warns(AdviceWarning, match="same class at 100.0%"):
        told = tell_after(220)
    assert told.agreement == {"b": 1.0}
    assert len(told.advice) == 1
    told = tell_after(40)
    assert (told.distillation_loss, told.agreement, told.advice) == (None, {}, ())


def test_a_setting_that_does_not_help_is_said_once_and_told_to_others(store):
    teach(store)
    codistiller, model = make_peer(store, interval_steps=100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-3)
    inputs = make_inputs()
    given = []

    def train():
        for step in range(260):
            optimizer.param_groups[0]["lr"] = 0.1 if step < 40 else 0.01
            codistiller.loss(model(inputs), inputs)
            given.extend(codistiller.step(task_loss=1.0, optimizer=optimizer).advice)

    with pytest.warns(AdviceWarning, match="weight decay is still 0.001") as caught:
        train()
    assert caught[0].filename == __file__
    assert len(caught) == len(given) == 1
    codistiller.close()
    status = Status.from_json(store.read("a/status.json", max_bytes=10**5), key="a/status.json")
    assert [f"At step 240: {sentence}" for sentence in status.advice] == given


def what_is_advised(store, model, *, times=2.0, **options):
    """Return all that is said over twelve looks, while neither student nor teacher changes."""
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter *= times
    teach(store, model=teacher, distillation_loss=options.get("distillation_loss", "kl"))
    codistiller, _ = make_peer(store, model=model, interval_steps=1000, **options)
    inputs, said = make_inputs(), []
    for step in range(400):
        codistiller.loss(model(inputs), inputs)
        said.extend(codistiller.step(task_loss=1.0 if step < 200 else 0.4).advice)
    assert codistiller.teachers
    return said


def test_models_that_always_agree_are_told(store):
    with pytest.warns(AdviceWarning, match=r"the same class at 100\.0%"):
        assert len(what_is_advised(store, make_model(7))) == 1


def test_an_agreement_that_was_measured_once_is_none_of_ten_looks(store):
    assert what_is_advised(store, make_model(7), weight=AtDrops(1.0, {30: 0.0})) == []


def test_one_logit_on_the_same_side_of_0_is_no_sign_that_nothing_is_left_to_teach(store):
    torch.manual_seed(0)
    assert what_is_advised(store, nn.Linear(4, 1), distillation_loss="bernoulli_kl") == []


def test_a_cross_entropy_above_the_task_loss_says_nothing_as_that_of_equals_is_not_0(store):
    options = {"distillation_loss": "soft_cross_entropy", "weight": 2.0}
    assert what_is_advised(store, make_model(7), times=-1.0, **options) == []
