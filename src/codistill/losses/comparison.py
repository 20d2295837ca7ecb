"""One student against all its teachers: several divergences become one value a position."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import torch
from torch import Tensor

from codistill.losses.divergences import Divergence
from codistill.losses.logits import log_coin_probabilities, log_probabilities, precision
from codistill.losses.sparse import SparseTarget, sparse_divergence

# A teacher with all its logits, or with a few classes a position.
Teacher: TypeAlias = Tensor | SparseTarget


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """What the student's logits are compared with, and how; checked by ``distillation_term``."""

    divergence: Divergence
    """The loss between the student and one teacher."""
    combine: str
    """How several teachers become one: "losses", "probabilities" or "logits"."""
    teachers: Sequence[Teacher]
    """What each says, without gradient; at least one."""
    shares: Sequence[Tensor] | None = None
    """How much each counts, 0-d; None for 1 each, to the bit."""
    mask: Tensor | None = None
    """Which positions count; None for all."""

    def precision(self, student_logits: Tensor) -> torch.dtype:
        """Return what the values are computed in: float64 if anybody's logits are, else float32."""
        return precision(student_logits, *self._dense())

    def constants(self) -> list[Tensor]:
        """Return all tensors that a later backward relies on."""
        sparse = [teacher for teacher in self.teachers if isinstance(teacher, SparseTarget)]
        parts = [tensor for teacher in sparse for tensor in (teacher.classes, teacher.weights)]
        return [*self._dense(), *parts, *(() if self.mask is None else (self.mask,))]

    def at(self, part: tuple[slice, ...]) -> "Comparison":
        """Return the comparison for some of the positions.

        Args:
            part: One slice a dimension of the logits, a full one for that of the classes.
        """
        positions = self._of_positions(part)
        teachers = [
            teacher[part] if isinstance(teacher, Tensor) else teacher.at(positions)
            for teacher in self.teachers
        ]
        return replace(self, teachers=teachers, mask=None if self.mask is None else self.mask[positions])

    def values(self, student_logits: Tensor) -> Tensor:
        """Return one value a position, exactly 0 (also in its gradient) where the mask leaves it out."""
        teachers: Sequence[Teacher] = self.teachers
        if self.mask is not None:
            # Before the divergence, not after it: the derivative of NaN times 0 is NaN.
            left_out = self.left_out_logits()
            student_logits = student_logits.masked_fill(left_out, 0.0)
            teachers = [
                teacher.masked_fill(left_out, 0.0)
                if isinstance(teacher, Tensor)
                else teacher.silenced(~self.mask)
                for teacher in teachers
            ]
        if self.shares is not None:
            teachers = [
                _silenced(teacher, student_logits, share)
                for teacher, share in zip(teachers, self.shares, strict=True)
            ]
        teachers, weights = self.combined(teachers, student_logits)
        each = [
            self.divergence(student_logits, teacher)
            if isinstance(teacher, Tensor)
            else sparse_divergence(self.divergence, student_logits, teacher)
            for teacher in teachers
        ]
        if len(each) == 1:
            values = each[0]
        else:
            values = _mean(each) if weights is None else _weighted_sum(each, weights)
        if self.shares is not None:
            values = values * self.total_share()
        return values if self.mask is None else values.masked_fill(~self.mask, 0.0)

    def combined(
        self, teachers: Sequence[Teacher], student_logits: Tensor
    ) -> tuple[Sequence[Teacher], list[Tensor] | None]:
        """Return the teachers whose divergences are to be averaged, and their weights; None for alike."""
        weights = None if self.shares is None else self._weights(self.shares)
        dense = [teacher for teacher in teachers if isinstance(teacher, Tensor)]
        # The mean of what is linear in the teacher's probabilities is that of their mean; only such losses
        # come here with sparse teachers.
        if len(teachers) == 1 or self.combine == "losses" or len(dense) < len(teachers):
            return teachers, weights
        precise = [logits.to(precision(student_logits, logits)) for logits in dense]
        if self.combine == "logits":
            mean = _mean(precise) if weights is None else _weighted_sum(precise, weights)
        else:
            mean = _logits_of_mean_distribution(self.divergence, precise, weights)
        return [mean], None

    def total_share(self) -> Tensor:
        """Return what the mean over teachers is multiplied by: the sum of the shares, 1 at most."""
        assert self.shares is not None
        return functools.reduce(torch.add, self.shares).clamp(max=1)

    def left_out_logits(self) -> Tensor:
        """Return where the mask leaves logits out, with a class dimension of 1."""
        assert self.mask is not None
        is_one = self.divergence.acts_on == "one_logit"
        return ~self.mask if is_one else ~self.mask.unsqueeze(self.divergence.class_dim)

    def _of_positions(self, part: tuple[slice, ...]) -> tuple[slice, ...]:
        if self.divergence.acts_on == "one_logit":
            return part
        class_dim = self.divergence.class_dim % len(part)
        return part[:class_dim] + part[class_dim + 1 :]

    def _dense(self) -> list[Tensor]:
        return [teacher for teacher in self.teachers if isinstance(teacher, Tensor)]

    def _weights(self, shares: Sequence[Tensor]) -> list[Tensor]:
        total = functools.reduce(torch.add, shares)
        # Any weights will do where all shares are 0, as long as what is multiplied by 0 is finite.
        return [torch.where(total > 0, share / total, 1 / len(shares)) for share in shares]


def _silenced(teacher: Teacher, student_logits: Tensor, share: Tensor) -> Teacher:
    # Where the student rules a class out, a divergence from finite logits is infinite, and 0 * inf is NaN.
    if isinstance(teacher, SparseTarget):
        return teacher.silenced(share == 0)
    return teacher.masked_fill((share == 0) & torch.isneginf(student_logits.detach()), -math.inf)


def _mean(tensors: list[Tensor]) -> Tensor:
    return functools.reduce(torch.add, tensors) / len(tensors)


def _weighted_sum(tensors: list[Tensor], weights: list[Tensor]) -> Tensor:
    # Classes that are ruled out are at -inf, and 0 * -inf is NaN.
    weighted = [
        (tensor * weight).masked_fill(weight == 0, 0.0)
        for tensor, weight in zip(tensors, weights, strict=True)
    ]
    return functools.reduce(torch.add, weighted)


def _logits_of_mean_distribution(
    divergence: Divergence, teachers: list[Tensor], weights: list[Tensor] | None
) -> Tensor:
    # Logits whose softmax, or sigmoid, at the divergence's temperature is the mean of the teachers'.
    temperature = divergence.temperature
    if divergence.acts_on == "one_logit":
        logs = [log_coin_probabilities(logits, temperature=temperature) for logits in teachers]
    else:
        logs = [
            log_probabilities(logits, temperature=temperature, class_dim=divergence.class_dim)
            for logits in teachers
        ]
    if weights is not None:
        logs = [log + weight.log() for log, weight in zip(logs, weights, strict=True)]
    total = functools.reduce(torch.logaddexp, logs)
    if divergence.acts_on == "one_logit":
        yes, no = total.unbind(-1)
        return (yes - no) * temperature
    return (total if weights is not None else total - math.log(len(logs))) * temperature
