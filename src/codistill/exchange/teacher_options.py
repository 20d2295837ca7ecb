"""How teachers are made."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from codistill.arguments import check_int
from codistill.snapshots.info import SnapshotInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherOptions:
    """How teachers are made.

    Raises:
        TypeError, ValueError: If a field is not as described.
    """

    build: Callable[[SnapshotInfo], nn.Module] | None = None
    """Returns a new module for the peer of a snapshot, once a peer, and again if that peer comes back with
    another architecture; None copies the student. It may be parallelised (``fully_shard``), then on all
    ranks alike, best with ``reshard_after_forward=True``, and it may be on the meta device."""
    dtype: torch.dtype | None = None
    """Floating dtype of the teachers' weights, and of what they are called with; None keeps the module's own.
    Half of the bits are half of the memory."""
    device: torch.device | str | None = None
    """Where teachers live, such as another GPU or "cpu"; inputs go there, predictions come back. None is
    where the module is."""
    every: int = 1
    """Let teachers predict at every such step only; in between the distillation loss is 0. It is not scaled
    up for that: raise the weight."""
    max_teachers: int = 4
    """The most teachers to hold; each costs one copy of the weights and one forward a batch."""

    def __post_init__(self) -> None:
        """Check every field."""
        if self.build is not None and not callable(self.build):
            raise TypeError(
                f"build must be a function from SnapshotInfo to a module, got {type(self.build).__name__}. "
                "Pass build=lambda info: MyModel(...)."
            )
        if self.dtype is not None and not (
            isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point
        ):
            raise TypeError(
                f"dtype must be a floating dtype of torch, got {self.dtype!r}. torch.bfloat16 is usual."
            )
        if self.device is not None:
            _check_device(self.device)
        check_int("every", self.every, minimum=1, hint="1 is at each step.")
        hint = "To train without peers, leave out the Codistiller."
        check_int("max_teachers", self.max_teachers, minimum=1, hint=hint)


def _check_device(device: torch.device | str) -> None:
    try:
        torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'device must be one of torch, got {device!r}. Try "cpu" or "cuda:1".') from error
