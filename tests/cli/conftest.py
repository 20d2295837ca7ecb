from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sklearn  # noqa: F401 - its first import sets environment variables, which no test may
import torch
from torch import Tensor, nn

from codistill.codistiller import Codistiller
from codistill.exchange.checkpoint import CheckpointExchange
from codistill.lab import results
from codistill.lab.folder import RunFolder
from codistill.lab.kept_scores import KeptScores
from codistill.lab.results import Evaluation, PeerResult


@pytest.fixture
def pretend_to_train() -> Callable[[RunFolder], None]:
    """Return a function that leaves in a folder what training would leave there."""
    return _pretend


def _pretend(folder: RunFolder) -> None:
    for arm in folder.arms:
        for seed in folder.seeds:
            for peer in ("a",) if arm.method == "all_reduce" else ("a", "b", "c", "d")[: arm.peers]:
                path = folder.peer_path(arm.label, seed, peer)
                path.mkdir(parents=True, exist_ok=True)
                results.save_evaluations(path / results.METRICS, [_row(50), _row(100)])
                KeptScores.of_whole(np.zeros((3, 2), np.float32), np.zeros(3, np.int64)).save(path)
                results.save_result(path / results.RESULT, _result(arm.label, seed, peer))


def _row(step: int) -> Evaluation:
    return Evaluation(
        step=step,
        samples=step,
        train_loss=1 / step,
        distillation_loss=None,
        validation_accuracy=0.5,
        validation_nll=1.0,
        distance=1.0,
        learning_rate=0.1,
        weight_decay=0.0,
        teacher_share=None,
    )


def _result(arm: str, seed: int, peer: str) -> PeerResult:
    return PeerResult(
        arm=arm,
        peer=peer,
        seed=seed,
        updates=100,
        samples=3200,
        parameters=10,
        validation_accuracy=0.5,
        validation_nll=1.0,
        test_accuracy=0.75,
        test_nll=1.0,
        distance=1.0,
        seconds=1.0,
        stall_s=0.0,
        bytes_published=0,
        bytes_fetched=0,
        bytes_all_reduced=0,
        teacher_share=None,
        teacher_samples=0,
    )


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make default folders fall into a temporary one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Tied(nn.Module):
    """Two names for one weight, and a buffer of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3, bias=False)
        self.head = nn.Linear(3, 3)
        self.head.weight = self.body.weight
        self.register_buffer("seen", torch.tensor(7))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs))


@pytest.fixture
def tied_model() -> nn.Module:
    torch.manual_seed(0)
    return Tied()


@pytest.fixture
def store_path(tmp_path: Path, tied_model: nn.Module) -> Path:
    """A store in which peer a has published its `tied_model` after 2 steps of 4 samples, and finished."""
    exchange = CheckpointExchange(tmp_path / "store", peer="a", interval_steps=2)
    with Codistiller(tied_model, exchange) as codistiller:
        for _ in range(2):
            inputs = torch.ones(4, 3)
            codistiller.loss(tied_model(inputs), inputs).detach()
            codistiller.step(task_loss=torch.tensor(0.5), samples=4)
    return tmp_path / "store"
