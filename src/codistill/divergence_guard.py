"""When a student's distillation term takes over its training."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, Final, Self, final

import torch
from torch import Tensor

from codistill.snapshots.document import Fields

CHECK_STEPS: Final = 20
FIRST_STEPS: Final = 100


@final
class DivergenceGuard:
    """Notices that a student's own distillation term diverges, and by how much to lower its weight.

    Every 20 steps it looks at the terms of those steps; steps without a teacher are left out, and fewer
    than 20 wait for more. The term has diverged if one is not finite; or if the median of the last 20 is
    above the median of the task losses of the same steps, and that is over twice the median of the first
    100 task losses that were told. Neither half says anything alone: in a good training D is often above a
    task loss near 0, and a task loss may rise for reasons of its own. Until 100 have been told, or if they
    are not positive, only a term that is not finite counts.

    The factor never rises by itself: what has diverged once would do so again.

    **Ranks**: each guards what it sees; the caller lets all ranks of a peer agree before it halves.
    **Blocks**: ``has_diverged`` every 20th step and ``state_dict`` wait for the device; ``observe`` never.
    **On failure**: nothing here fails.

    Example:
        >>> guard = DivergenceGuard()
        >>> for _ in range(20):
        ...     guard.observe(torch.tensor(math.inf), 1.0)
        >>> guard.has_diverged()
        True
        >>> guard.halve()
        >>> guard.factor
        0.5
    """

    def __init__(self) -> None:
        self._factor = 1.0
        self._steps = 0
        # Term and task loss of the steps since the last look, where they lie; then what has been read.
        self._unread: list[tuple[Tensor | float | None, Tensor | float | None]] = []
        self._first_task_losses: list[float] = []
        self._terms: list[float] = []
        self._task_losses: list[float | None] = []

    @property
    def factor(self) -> float:
        """What to multiply the weight by: 1, halved for each time the term had diverged."""
        return self._factor

    @property
    def is_due(self) -> bool:
        """Whether the step observed last is one of those, every 20th, at which ``has_diverged`` decides."""
        return self._steps > 0 and self._steps % CHECK_STEPS == 0

    def observe(self, weighted_term: Tensor | None, task_loss: Tensor | float | None) -> None:
        """Take one optimizer step into account.

        Args:
            weighted_term: The distillation term as it was added to the task loss, with the weight and the
                factor, one number; None if there was no teacher or no weight.
            task_loss: The step's task loss, one number; None if it is not known.
        """
        self._steps += 1
        if weighted_term is not None or task_loss is not None:
            self._unread.append((_copied(weighted_term), _copied(task_loss)))

    def has_diverged(self) -> bool:
        """Return whether the term has diverged since the last check.

        Call it once after each step, or where ``is_due``; at all other steps the answer is False, at no cost.
        """
        if not self.is_due:
            return False
        self._read()
        has_broken = not all(map(math.isfinite, self._terms))
        # Fewer than 20 steps with a teacher are looked at together with those that follow.
        is_full = len(self._terms) == CHECK_STEPS
        has_diverged = has_broken or (is_full and self._dominates())
        if is_full or has_broken:
            self._forget()
        return has_diverged

    def halve(self) -> None:
        """Halve the factor; the next check is about what comes after."""
        self._factor /= 2
        self._read()
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """Return what it remembers: numbers and lists of numbers."""
        self._read()
        return {
            "factor": self._factor,
            "steps": self._steps,
            "first_task_losses": list(self._first_task_losses),
            "terms": list(self._terms),
            "task_losses": list(self._task_losses),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Return the guard that ``state_dict`` was taken of.

        Raises:
            ValueError: If a field is missing or not what it should be.
        """
        guard = cls()
        factor = fields.number_or_none("factor")
        if factor is None or not 0 <= factor <= 1:
            raise ValueError(f"{fields.name}.factor must be between 0 and 1, got {factor}.")
        guard._factor = factor
        guard._steps = fields.integer("steps")
        guard._first_task_losses = _numbers(fields, "first_task_losses", limit=FIRST_STEPS)
        guard._terms = _numbers(fields, "terms", limit=CHECK_STEPS)
        told = fields.array("task_losses", limit=CHECK_STEPS)
        guard._task_losses = [None if loss is None else _number(fields, "task_losses", loss) for loss in told]
        if len(guard._terms) != len(guard._task_losses):
            raise ValueError(
                f"{fields.name}.task_losses must have as many elements as {fields.name}.terms, "
                f"{len(guard._terms)}, got {len(guard._task_losses)}."
            )
        return guard

    def _dominates(self) -> bool:
        told = [loss for loss in self._task_losses if loss is not None and math.isfinite(loss)]
        if not told or len(self._first_task_losses) < FIRST_STEPS:
            return False
        # Above 0, as twice a loss that may be negative, such as a log-density, says nothing.
        first = statistics.median(self._first_task_losses)
        return statistics.median(self._terms) > statistics.median(told) > 2 * first > 0

    def _read(self) -> None:
        """Turn all that still lies on a device into numbers, in one transfer."""
        tensors = [value for pair in self._unread for value in pair if isinstance(value, Tensor)]
        numbers = iter(_to_numbers(tensors))
        for pair in self._unread:
            term, loss = (next(numbers) if isinstance(value, Tensor) else value for value in pair)
            if term is not None:
                self._terms = [*self._terms, term][-CHECK_STEPS:]
                self._task_losses = [*self._task_losses, loss][-CHECK_STEPS:]
            # A loss that is not finite is no measure of those that follow; another takes its place.
            if loss is not None and math.isfinite(loss) and len(self._first_task_losses) < FIRST_STEPS:
                self._first_task_losses.append(loss)
        self._unread = []

    def _forget(self) -> None:
        self._terms, self._task_losses = [], []


def _copied(value: Tensor | float | None) -> Tensor | float | None:
    # A copy: under CUDA graphs the next step writes to the same memory.
    if isinstance(value, Tensor):
        return value.detach().reshape(()).to(torch.float32, copy=True)
    return None if value is None else float(value)


def _to_numbers(tensors: Sequence[Tensor]) -> list[float]:
    if not tensors:
        return []
    # To a device rather than from it: only the last step waits.
    device = next((value.device for value in tensors if value.device.type != "cpu"), tensors[0].device)
    numbers: list[float] = torch.stack([value.to(device, non_blocking=True) for value in tensors]).tolist()
    return numbers


def _numbers(fields: Fields, field: str, *, limit: int) -> list[float]:
    return [_number(fields, field, value) for value in fields.array(field, limit=limit)]


def _number(fields: Fields, field: str, value: object) -> float:
    if not isinstance(value, float):
        raise ValueError(f"{fields.name}.{field} must hold floats, got {value!r}.")
    return value
