"""What is trained on the hosts, and how long each step of it takes."""

import time
from dataclasses import dataclass
from typing import Any, Final, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codistill import Codistiller
from codistill.exchange.base import Exchange

_FEATURES: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a model and its batch are."""

    width: int
    """Hidden units of each of two layers."""
    classes: int
    """What it chooses from."""
    batch: int
    """Samples a step of each peer."""

    @property
    def parameters(self) -> int:
        """Weights of the model."""
        return sum(parameter.numel() for parameter in new_model(self, seed=0).parameters())


def new_model(size: Size, *, seed: int) -> nn.Module:
    """Return a perceptron of three layers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(_FEATURES, size.width),
        nn.ReLU(),
        nn.Linear(size.width, size.width),
        nn.ReLU(),
        nn.Linear(size.width, size.classes),
    )


@dataclass(frozen=True, slots=True)
class Step:
    """What a step came to."""

    end_s: float
    """When it ended, by the clock that all processes of a machine share."""
    seconds: float
    """How long it took."""
    stall_s: float
    """Seconds of it that were spent in the exchange, teachers' forwards apart."""
    published: bool
    """Whether a snapshot of this peer has become readable."""
    fetched: int
    """Teachers' new snapshots that were taken."""
    skipped: bool
    """Whether nothing was published at this step's interval, the store being busy or recovering."""
    age_steps: int | None
    """The teacher's age; None while there is none."""


@final
class Training:
    """A model, its data and its optimizer, alone or as a peer.

    Attributes:
        module: The model, perhaps wrapped.
    """

    def __init__(
        self, size: Size, module: nn.Module, exchange: Exchange | None, *, seed: int, idle_s: float
    ) -> None:
        """Begin.

        Args:
            size: Of model and batch.
            module: What to train.
            exchange: How to learn from others; None for alone.
            seed: Of the data; peers that swap predictions need the same.
            idle_s: What each step sleeps, as a process does that waits for its accelerator.
        """
        self._size = size
        self.module = module
        self._optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        self._codistiller = None if exchange is None else Codistiller(module, exchange)
        self._generator = torch.Generator().manual_seed(seed)
        self._idle_s = idle_s
        self._stall_s = 0.0
        self._skipped = 0

    def step(self) -> Step:
        """Train on one batch."""
        begin_s = time.monotonic()
        inputs = torch.randn(self._size.batch, _FEATURES, generator=self._generator)
        targets = torch.randint(self._size.classes, (self._size.batch,), generator=self._generator)
        logits: Tensor = self.module(inputs)
        time.sleep(self._idle_s)
        task_loss = F.cross_entropy(logits, targets)
        loss = task_loss
        if self._codistiller is not None:
            loss = task_loss + self._codistiller.loss(logits, inputs)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        report: Any = None
        if self._codistiller is not None:
            report = self._codistiller.step(task_loss=task_loss.detach(), samples=self._size.batch)
        end_s = time.monotonic()
        if report is None:
            return Step(end_s, end_s - begin_s, 0.0, False, 0, False, None)
        stall_s, self._stall_s = report.stall_s - self._stall_s, report.stall_s
        skipped, self._skipped = report.publishes_skipped - self._skipped, report.publishes_skipped
        return Step(
            end_s=end_s,
            seconds=end_s - begin_s,
            stall_s=stall_s,
            published=report.published,
            fetched=len(report.fetched),
            skipped=skipped > 0,
            age_steps=max(report.teachers.values(), default=None),
        )

    def close(self) -> None:
        """Leave without a last snapshot."""
        if self._codistiller is not None:
            self._codistiller.close(publish=False, timeout_s=30.0)
