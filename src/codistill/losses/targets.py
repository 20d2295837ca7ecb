"""What teachers say about a batch, and the one number it costs the student to disagree."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, final, get_args

import torch
from torch import Tensor

from codistill.losses.chunked import summed
from codistill.losses.comparison import Comparison, Teacher
from codistill.losses.divergences import Divergence
from codistill.losses.sparse import SparseTarget, validate_sparse

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

    def logits_shape(self, class_dim: int) -> torch.Size:  # noqa: ARG002  # a sparse target needs it
        """Return the shape of the student's logits that it is a target for.

        Args:
            class_dim: The dimension of the classes in it.
        """
        return self.logits.shape


Target: TypeAlias = DenseTarget | SparseTarget


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
    targets: Sequence[Target],
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

    Large logits are gone through in parts, and once more in the backward, so that beside the logits and
    their gradient no copy of them exists. For a ``divergence`` of your own, which may look at several
    positions at once, the whole is computed at once.

    Args:
        divergence: The loss between one student and one teacher.
        student_logits: [batch, ..., classes], or any shape for one logit a position.
        targets: One a teacher, at least one; each of the student's shape. Sparse ones only for losses that
            they do not bias (``validate_sparse``).
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
        ValueError: If there is no target, shapes do not fit, ``combine`` or a sparse target does not suit
            the divergence, ``denominator`` is not > 0, or ``shares`` are not one in [0, 1] for each target.

    Example:
        >>> student = torch.zeros(2, 3)
        >>> teacher = DenseTarget(torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0]]))
        >>> distillation_term(Divergence("logit_mse"), student, [teacher], mask=torch.tensor([True, False]))
        tensor(13.6667)
    """
    validate_combine(divergence, combine)
    _check_targets(divergence, combine, student_logits, targets)
    positions = divergence.position_shape(student_logits)
    _check_mask(mask, positions)
    teachers, counted = _teachers_that_count(student_logits, targets, shares)
    comparison = Comparison(
        divergence=divergence, combine=combine, teachers=teachers, shares=counted, mask=mask
    )
    return summed(comparison, student_logits) / _divisor(denominator, mask, positions)


def _teachers_that_count(
    student: Tensor, targets: Sequence[Target], shares: Sequence[float | Tensor] | None
) -> tuple[list[Teacher], list[Tensor] | None]:
    """Return those whose share is not known to be 0, and their shares; None for 1 each."""
    teachers = [target.logits.detach() if isinstance(target, DenseTarget) else target for target in targets]
    if shares is None:
        return teachers, None
    _check_shares(shares, len(targets))
    counted = [
        (teacher, share)
        for teacher, share in zip(teachers, shares, strict=True)
        if isinstance(share, Tensor) or share != 0
    ]
    if not counted:
        counted = [(teachers[0], 0.0)]
    teachers = [teacher for teacher, _ in counted]
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


def _check_targets(
    divergence: Divergence, combine: Combine, student_logits: Tensor, targets: Sequence[Target]
) -> None:
    if not targets:
        raise ValueError(
            "targets must hold at least one teacher's, got none. "
            "Without a teacher there is no distillation loss."
        )
    for index, target in enumerate(targets):
        shape = target.logits_shape(divergence.class_dim)
        if shape != student_logits.shape:
            raise ValueError(
                f"targets[{index}] must have the shape of student_logits, {list(student_logits.shape)}, "
                f"got {list(shape)}. Teachers must see the student's own batch."
            )
        if isinstance(target, SparseTarget):
            validate_sparse(divergence, combine, len(targets))
            if target.temperature != divergence.temperature:
                raise ValueError(
                    f"targets[{index}] must be at the temperature of {divergence.name!r}, "
                    f"{divergence.temperature}, got {target.temperature}. Pass it to sample_top_k."
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
