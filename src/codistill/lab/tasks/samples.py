"""Samples by number: whole in memory, a part of others, or read as they are asked for."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from typing_extensions import override

Inputs: TypeAlias = Tensor | tuple[Tensor, ...]
"""What a model is called with: one tensor, or several, as in ``model(*inputs)``."""

IGNORED = -100
"""The target at positions that do not count, such as padding; the one that `F.cross_entropy` ignores."""


class Samples(ABC):
    """One part of a data set."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def batch(self, rows: Tensor) -> tuple[Inputs, Tensor]:
        """Return some samples as they are stored; `Task.training_inputs` and `Task.inputs` make them ready.

        Args:
            rows: Their numbers, int64 [batch].

        Returns:
            Inputs, each [batch, ...], and targets, int64 [batch] or [batch, positions], `IGNORED` at
            positions that do not count.
        """

    def to(self, device: torch.device) -> "Samples":  # noqa: ARG002 - for subclasses
        """Return the same samples, kept on a device if they are kept in memory."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(Samples):
    """Samples that lie whole in memory."""

    inputs: Inputs
    """[samples, ...] each, as stored."""
    targets: Tensor
    """int64 [samples], class numbers, or [samples, positions]."""

    @override
    def __len__(self) -> int:
        return len(self.targets)

    @override
    def batch(self, rows: Tensor) -> tuple[Inputs, Tensor]:
        if isinstance(self.inputs, Tensor):
            return self.inputs[rows], self.targets[rows]
        return tuple(part[rows] for part in self.inputs), self.targets[rows]

    @override
    def to(self, device: torch.device) -> "Split":
        return Split(inputs=to_device(self.inputs, device), targets=self.targets.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset(Samples):
    """Some of other samples."""

    whole: Samples
    """What they are taken from."""
    rows: Tensor
    """Their numbers there, int64 [samples]."""

    @override
    def __len__(self) -> int:
        return len(self.rows)

    @override
    def batch(self, rows: Tensor) -> tuple[Inputs, Tensor]:
        return self.whole.batch(self.rows[rows])

    @override
    def to(self, device: torch.device) -> "Subset":
        return Subset(whole=self.whole.to(device), rows=self.rows.to(device))


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """Return inputs on a device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return tuple(part.to(device) for part in inputs)
