import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import binary_calibration_error

from codistill.lab.evaluation import Scores, score
from codistill.lab.tasks.images.digits import Digits
from codistill.lab.tasks.samples import Split


@pytest.fixture(scope="module")
def task() -> Digits:
    return Digits(Path())


def test_scores_are_those_of_the_textbook(task: Digits) -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 10)
    inputs, targets = torch.rand(1500, 64), torch.randint(10, (1500,))
    scores = score(model, Split(inputs=inputs, targets=targets), task=task, device=torch.device("cpu"))
    with torch.no_grad():
        probabilities = torch.softmax(model(inputs).double(), dim=1)
    expected_nll = -sum(math.log(p[t]) for p, t in zip(probabilities.tolist(), targets, strict=True)) / 1500
    assert scores.accuracy == float((probabilities.argmax(1) == targets).double().mean())
    assert scores.nll == pytest.approx(expected_nll, abs=1e-6)
    assert scores.log_probabilities.shape == (1500, 10)
    assert scores.log_probabilities.dtype == torch.float32


def test_a_model_is_scored_in_eval_mode_and_handed_back_in_train_mode(task: Digits) -> None:
    model = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 10))
    before = model[0].running_mean.clone()
    split = Split(inputs=torch.rand(8, 64), targets=torch.zeros(8, dtype=torch.int64))
    score(model, split, task=task, device=torch.device("cpu"))
    assert torch.equal(model[0].running_mean, before)
    assert model.training


@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0])
def test_the_calibration_error_is_that_of_torchmetrics(scale: float) -> None:
    torch.manual_seed(0)
    log_probabilities = (scale * torch.randn(500, 4)).log_softmax(dim=-1)
    confidences, labels = log_probabilities.max(dim=-1)
    # On an edge of the bins, and at their end.
    confidences = torch.cat([confidences.exp().clamp(max=1.0), torch.tensor([0.2, 1.0, 1.0, 0.0])])
    labels, targets = torch.cat([labels, torch.zeros(4).long()]), torch.randint(4, (504,))
    scores = Scores(
        accuracy=0.0,
        nll=0.0,
        targets=targets,
        labels=labels,
        confidences=confidences,
        target_log_probabilities=torch.zeros(504),
        log_probabilities=None,
    )
    expected = binary_calibration_error(confidences, (labels == targets).long(), n_bins=15, norm="l1")
    assert scores.calibration_error() == pytest.approx(float(expected), abs=1e-6)
