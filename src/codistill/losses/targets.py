"""What teachers say about a batch, and the one number it costs the student to disagree."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, final, get_args

import torch
from torch import Tensor

from codistill.losses.divergences import Divergence
from codistill.losses.logits import checked_pair, log_coin_probabilities, log_probabilities

Combine: TypeAlias = Literal["losses", "probabilities", "logits"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class DenseTarget:
    """A teacher's logits for every class of every position of the student's batch.

    Raises:
        TypeError: If the logits are not a floating-point tensor.
    """

    logits: Tensor
    """The shape of the student's logits; no gradient reaches them."""

    def __post_init__(self) -> None:
        if not isinstance(self.logits, Tensor) or not self.logits.is_floating_point():
            got = self.logits.dtype if isinstance(self.logits, Tensor) else type(self.logits).__name__
            raise TypeError(
                f"logits must be a floating-point tensor, got {got}. "
                "Where a model returns more than logits, pass outputs_to_logits."
            )


def validate_combine(divergence: Divergence, combine: str) -> None:
    """Refuse a way of combining teachers that does not exist or does not go with the divergence.

    Args:
        divergence: The distillation loss.
        combine: ``"losses"``, ``"probabilities"`` or ``"logits"``.

    Raises:
        ValueError: If it is none of these, or ``"probabilities"`` with a loss that acts on logits.
    """
    if combine not in get_args(Combine):
        choices = ", ".join(map(repr, get_args(Combine)))
        raise ValueError(f"combine must be one of {choices}, got {combine!r}. 'losses' is the default.")
    if combine == "probabilities" and divergence.acts_on == "logits":
        raise ValueError(
            f"combine must be 'losses' or 'logits' for {divergence.name!r}, got 'probabilities'. "
            "A mean distribution has no logits of its own to compare with; for a function that takes a "
            "softmax, pass Divergence(function, acts_on='probabilities')."
        )


def distillation_term(
    divergence: Divergence,
    student_logits: Tensor,
    targets: Sequence[DenseTarget],
    *,
    combine: Combine = "losses",
    mask: Tensor | None = None,
    denominator: float | Tensor | None = None,
    shares: Sequence[float | Tensor] | None = None,
) -> Tensor:
    """Return the distillation loss of a batch, not yet multiplied by its weight.

    The divergence from all teachers is summed over the positions that count and divided by
    ``denominator``. Gradients reach the student only. Positions that the mask leaves out contribute
    exactly 0, value and gradient, whatever their logits are. With one teacher, ``combine`` makes no
    difference, to the bit.

    Args:
        divergence: The loss between one student and one teacher.
        student_logits: [batch, ..., classes], or any shape for one logit a position.
        targets: One a teacher, at least one; each of the student's shape.
        combine: ``"losses"``: the mean over teachers of the divergence (Zhang et al. 2018; Sodhani et
            al. 2020, Algorithm 1). ``"probabilities"``: the divergence from the mean of the teachers'
            distributions at the divergence's temperature (Anil et al. 2018, Algorithm 1).
            ``"logits"``: the divergence from their mean logits.
        mask: Boolean, True where a position counts; the shape of ``divergence.position_shape``.
        denominator: What to divide the sum by, > 0, not checked if it is a tensor (that would wait for
            the device). By default the number of positions that count in this call, as
            ``F.cross_entropy`` does. Under DDP, whose gradients are means over ranks, pass the global
            number of positions / world size, to weigh every position of the global batch alike.
        shares: How much each target counts, in [0, 1]: numbers or 0-d tensors, whose range is not checked
            (as above). Every mean over teachers is weighted by them, and the term is multiplied by their
            sum where that is below 1: with one teacher, by its share. A teacher of share 0 contributes
            exactly nothing, value and gradient, if its logits are finite. None is 1 each, to the bit.

    Returns:
        0-d tensor, float32, or float64 for float64 logits; exactly 0, with a graph, if nothing counts.

    Raises:
        TypeError: If ``mask`` is not boolean, logits are not floating-point tensors, or ``denominator`` or
            a share is no number.
        ValueError: If there is no target, shapes do not fit, ``combine`` does not suit the divergence,
            ``denominator`` is not > 0, or ``shares`` are not one in [0, 1] for each target.

    Example:
        >>> student = torch.zeros(2, 3)
        >>> teacher = DenseTarget(torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0]]))
        >>> distillation_term(Divergence("logit_mse"), student, [teacher], mask=torch.tensor([True, False]))
        tensor(13.6667)
    """
    validate_combine(divergence, combine)
    _check_targets(student_logits, targets)
    positions = divergence.position_shape(student_logits)
    _check_mask(mask, positions)
    teachers, counted = _teachers_that_count(student_logits, targets, shares)
    if mask is not None:
        # Before the divergence, not after it: the derivative of NaN times 0 is NaN.
        left_out = ~mask if divergence.acts_on == "one_logit" else ~mask.unsqueeze(divergence.class_dim)
        student_logits = student_logits.masked_fill(left_out, 0.0)
        teachers = [logits.masked_fill(left_out, 0.0) for logits in teachers]
    if counted is None:
        values = _combined(divergence, student_logits, teachers, combine)
    else:
        values = _combined_by_shares(divergence, student_logits, teachers, combine, counted)
    if mask is not None:
        values = values.masked_fill(~mask, 0.0)
    return values.sum() / _divisor(denominator, mask, positions)


def _combined(divergence: Divergence, student: Tensor, teachers: list[Tensor], combine: Combine) -> Tensor:
    if len(teachers) == 1:
        return divergence(student, teachers[0])
    if combine == "losses":
        return _mean([divergence(student, logits) for logits in teachers])
    precise = [checked_pair(student, logits)[1] for logits in teachers]
    if combine == "logits":
        return divergence(student, _mean(precise))
    return divergence(student, _logits_of_mean_distribution(divergence, precise))


def _combined_by_shares(
    divergence: Divergence, student: Tensor, teachers: list[Tensor], combine: Combine, shares: list[Tensor]
) -> Tensor:
    # Where the student rules a class out, a divergence from finite logits is infinite, and 0 * inf is NaN.
    teachers = [
        logits.masked_fill((share == 0) & torch.isneginf(student.detach()), -math.inf)
        for logits, share in zip(teachers, shares, strict=True)
    ]
    total = functools.reduce(torch.add, shares)
    if len(teachers) == 1:
        return divergence(student, teachers[0]) * total.clamp(max=1)
    # Any weights will do where all shares are 0, as long as what is multiplied by 0 below is finite.
    weights = [torch.where(total > 0, share / total, 1 / len(shares)) for share in shares]
    if combine == "losses":
        values = _weighted_sum([divergence(student, logits) for logits in teachers], weights)
    else:
        precise = [checked_pair(student, logits)[1] for logits in teachers]
        if combine == "logits":
            mean = _weighted_sum(precise, weights)
        else:
            mean = _logits_of_mean_distribution(divergence, precise, weights)
        values = divergence(student, mean)
    return values * total.clamp(max=1)


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
    divergence: Divergence, teachers: list[Tensor], weights: list[Tensor] | None = None
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


def _teachers_that_count(
    student: Tensor, targets: Sequence[DenseTarget], shares: Sequence[float | Tensor] | None
) -> tuple[list[Tensor], list[Tensor] | None]:
    """Return the logits of those whose share is not known to be 0, and their shares; None for 1 each."""
    teachers = [target.logits.detach() for target in targets]
    if shares is None:
        return teachers, None
    _check_shares(shares, len(targets))
    counted = [
        (logits, share)
        for logits, share in zip(teachers, shares, strict=True)
        if isinstance(share, Tensor) or share != 0
    ]
    if not counted:
        counted = [(teachers[0], 0.0)]
    teachers = [logits for logits, _ in counted]
    if all(not isinstance(share, Tensor) and share == 1 for _, share in counted):
        return teachers, None
    return teachers, [_as_constant(share, student) for _, share in counted]


def _as_constant(share: float | Tensor, student: Tensor) -> Tensor:
    # Neither waits for the device: a fill is a kernel, and a copy from the host need not have arrived.
    dtype = torch.float64 if student.dtype == torch.float64 else torch.float32
    if isinstance(share, Tensor):
        return share.detach().to(student.device, dtype, non_blocking=share.device.type == "cpu")
    return torch.full((), share, dtype=dtype, device=student.device)


def _divisor(
    denominator: float | Tensor | None, mask: Tensor | None, positions: torch.Size
) -> float | Tensor:
    if denominator is None:
        # At least 1, so that an empty mask gives 0 / 1 and not 0 / 0.
        return max(positions.numel(), 1) if mask is None else mask.sum().clamp(min=1)
    if isinstance(denominator, Tensor):
        if denominator.dim() != 0:
            raise ValueError(
                f"denominator must be a number or a 0-d tensor, got shape {list(denominator.shape)}. "
                "Sum it first."
            )
        return denominator
    if isinstance(denominator, bool) or not isinstance(denominator, int | float):
        raise TypeError(f"denominator must be a number or a 0-d tensor, got {denominator!r}. Sum it first.")
    if not (math.isfinite(denominator) and denominator > 0):
        raise ValueError(
            f"denominator must be > 0, got {denominator!r}. "
            "Leave it out to divide by the positions that count."
        )
    return denominator


def _check_targets(student_logits: Tensor, targets: Sequence[DenseTarget]) -> None:
    if not targets:
        raise ValueError(
            "targets must hold at least one teacher's, got none. "
            "Without a teacher there is no distillation loss."
        )
    for index, target in enumerate(targets):
        if target.logits.shape != student_logits.shape:
            raise ValueError(
                f"targets[{index}] must have the shape of student_logits, {list(student_logits.shape)}, "
                f"got {list(target.logits.shape)}. Teachers must see the student's own batch."
            )


def _check_shares(shares: Sequence[float | Tensor], targets: int) -> None:
    if len(shares) != targets:
        raise ValueError(
            f"shares must be one for each of the {targets} targets, got {len(shares)}. "
            "Leave them out to count all teachers alike."
        )
    for index, share in enumerate(shares):
        if isinstance(share, Tensor):
            if share.dim() != 0:
                raise ValueError(
                    f"shares[{index}] must be a number or a 0-d tensor, got shape {list(share.shape)}. "
                    "A teacher has one share for the whole batch."
                )
        elif isinstance(share, bool) or not isinstance(share, int | float):
            raise TypeError(
                f"shares[{index}] must be a number or a 0-d tensor, got {share!r}. 1.0 counts in full."
            )
        elif not 0 <= share <= 1:
            raise ValueError(
                f"shares[{index}] must be between 0 and 1, got {share!r}. Put what is to count for more "
                "into the weight of the loss."
            )


def _check_mask(mask: Tensor | None, positions: torch.Size) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a boolean tensor, got {got}. Use mask.bool(); True means it counts.")
    if mask.shape != positions:
        raise ValueError(
            f"mask must have one entry a position, {list(positions)}, got {list(mask.shape)}. "
            "Leave the class dimension out of it."
        )
