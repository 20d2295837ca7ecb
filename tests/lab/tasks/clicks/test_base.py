from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from codistill.codistiller import Codistiller
from codistill.errors import RecipeError
from codistill.exchange.checkpoint import CheckpointExchange
from codistill.lab.tasks.base import Task
from codistill.lab.tasks.clicks.adult import Adult
from codistill.lab.tasks.samples import Split
from codistill.losses import DenseTarget, Divergence, bernoulli_kl, distillation_term, kl_divergence
from codistill.stores.memory import MemoryStore
from codistill.testing.inline_background import InlineBackground

LOGITS = torch.tensor([-3.0, -0.5, 0.0, 1.0, 40.0])[:, None]
TARGETS = torch.tensor([0, 1, 1, 0, 1])
PRIOR = torch.tensor([0.8, 0.2])


@pytest.fixture
def task(small_adult: Path) -> Adult:
    return Adult(small_adult)


def two(logits: torch.Tensor) -> torch.Tensor:
    """Return logits of both classes."""
    return torch.cat([torch.zeros_like(logits), logits], dim=-1)


def test_log_probabilities_are_those_of_both_classes(task: Adult) -> None:
    found = task.log_probabilities(LOGITS.bfloat16())
    assert found.dtype == torch.float32
    assert torch.allclose(found, F.log_softmax(two(LOGITS), dim=-1))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(("smoothing", "prior"), [(0.0, None), (0.0, PRIOR), (0.2, None), (0.2, PRIOR)])
def test_the_loss_is_that_of_two_classes(task: Adult, smoothing: float, prior: torch.Tensor | None) -> None:
    found = task.loss(LOGITS, TARGETS, smoothing=smoothing, prior=prior)
    assert found.dim() == 0
    expected = Task.loss(task, two(LOGITS), TARGETS, smoothing=smoothing, prior=prior)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_loss_without_smoothing_is_that_of_the_log_probabilities(task: Adult) -> None:
    expected = F.nll_loss(task.log_probabilities(LOGITS), TARGETS)
    assert task.loss(LOGITS, TARGETS).item() == pytest.approx(expected.item(), rel=1e-6)


def test_bernoulli_kl_is_kl_between_the_log_probabilities(task: Adult) -> None:
    student, teacher = LOGITS, LOGITS.flip(0)
    expected = kl_divergence(task.log_probabilities(student), task.log_probabilities(teacher))
    assert torch.allclose(bernoulli_kl(student, teacher)[:, 0], expected, atol=1e-6)


def test_distillation_takes_the_models_logits_and_refuses_them_as_classes(task: Adult) -> None:
    inputs, targets = task.validation.batch(torch.arange(4))
    student, teacher = task.model()(*inputs), task.model()(*inputs).detach()
    assert student.shape == (4, 1)
    term = distillation_term(
        Divergence("bernoulli_kl"), student, [DenseTarget(teacher)], mask=task.mask(targets)
    )
    assert term.item() == pytest.approx(bernoulli_kl(student, teacher).mean().item(), rel=1e-5)
    mask = torch.tensor([[True], [False], [True], [True]])
    term = distillation_term(Divergence("bernoulli_kl"), student, [DenseTarget(teacher)], mask=mask)
    assert term.item() == pytest.approx(bernoulli_kl(student, teacher)[mask].mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match="bernoulli_kl"):
        distillation_term(Divergence("kl"), student, [DenseTarget(teacher)])


def test_two_peers_teach_one_another(task: Adult) -> None:
    store, peers, made = MemoryStore(), {}, []
    inputs, targets = task.train.batch(torch.arange(8))
    for peer in ("a", "b"):
        torch.manual_seed(ord(peer))
        exchange = CheckpointExchange(store, peer=peer, interval_steps=1)
        exchange.background = InlineBackground()
        peers[peer] = task.model(width=8)
        made.append(Codistiller(peers[peer], exchange, distillation_loss="bernoulli_kl"))
    teacher, student = made
    teacher.loss(peers["a"](*inputs), inputs)
    teacher.step()
    student.loss(peers["b"](*inputs), inputs)
    student.step()
    logits = peers["b"](*inputs)
    loss = student.loss(logits, inputs, mask=task.mask(targets))
    expected = bernoulli_kl(logits, peers["a"](*inputs)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.item() > 0
    for codistiller in made:
        codistiller.close()


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order(task: Adult) -> None:
    model = task.model().eval()
    found = task.further_scores(model, task.train, device=torch.device("cpu"))
    logits, targets = model(*task.train.inputs)[:, 0], task.train.targets
    above = logits[targets == 1][:, None] - logits[targets == 0][None, :]
    assert found.keys() == {"auc"}
    assert found["auc"] == pytest.approx((above > 0).double().mean().item())


def test_there_is_no_curve_with_one_class(task: Adult) -> None:
    quiet = Split(inputs=task.train.inputs, targets=torch.zeros_like(task.train.targets))
    assert task.further_scores(task.model(), quiet, device=torch.device("cpu")) == {}


def test_models_are_named_and_scaled_by_the_width_of_the_first_layer(task: Adult) -> None:
    def widths(model: torch.nn.Module) -> list[int]:
        return [layer.out_features for layer in model.layers if isinstance(layer, torch.nn.Linear)]

    assert task.models == ("small", "paper")
    assert task.metric == "nll"
    assert widths(task.model()) == [128, 64, 1]
    assert widths(task.model("paper")) == [2560, 1024, 256, 1]
    assert widths(task.model(width=32)) == [32, 16, 1]
    assert widths(task.model("paper", width=10)) == [10, 4, 1, 1]
    with pytest.raises(RecipeError, match="model must be one of small, paper, got 'large'"):
        task.model("large")
