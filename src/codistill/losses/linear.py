"""Closed forms for the losses that are linear in the teacher's probabilities: KL and soft cross entropy.

At temperature T, with the student's distribution q and the teachers' p_j of weights w_j:

    value     T^2 * sum over j of w_j * sum over classes of p_j (log p_j - log q)
    gradient  T   * sum over j of w_j (q - p_j)

and without ``log p_j`` for the cross entropy. Nothing is kept for the backward, and a sparse teacher costs
only its own few classes. Values and gradients are those of ``Comparison.values`` up to rounding.
"""

import torch
from torch import Tensor

from codistill.losses.comparison import Comparison, Teacher
from codistill.losses.divergences import Divergence, kl_divergence
from codistill.losses.sparse import SparseTarget, sparse_values


def linear_values(comparison: Comparison, student_logits: Tensor) -> Tensor:
    """Return one value a position, exactly 0 where the mask leaves it out.

    Args:
        comparison: With a divergence that ``takes_sparse``.
        student_logits: Of any floating-point dtype; no gradient reaches them.
    """
    divergence, class_dim = comparison.divergence, comparison.divergence.class_dim
    dtype = comparison.precision(student_logits)
    student = _below_peak(divergence, student_logits, dtype)
    log_normaliser = _or_one(student.exp().sum(class_dim)).log()
    values = torch.zeros_like(log_normaliser)
    for teacher, weight in _weighed(comparison, student_logits):
        if isinstance(teacher, SparseTarget):
            log_q = student.movedim(class_dim, -1).gather(-1, teacher.classes) - log_normaliser[..., None]
            value = sparse_values(divergence, log_q, teacher)
        else:
            value = _dense_values(divergence, student, log_normaliser, teacher)
        if isinstance(weight, Tensor):
            # What does not count may be infinite.
            value = (value * weight).masked_fill_(weight == 0, 0.0)
        elif weight != 1:
            value *= weight
        values += value
    return values if comparison.mask is None else values.masked_fill_(~comparison.mask, 0.0)


def linear_gradient(comparison: Comparison, student_logits: Tensor, scale: Tensor) -> Tensor:
    """Return the gradient of ``scale`` times the sum of the values.

    Args:
        comparison: With a divergence that ``takes_sparse``.
        student_logits: Of any floating-point dtype.
        scale: 0-d.

    Returns:
        The shape of the logits, in the precision of the computation.
    """
    divergence, class_dim = comparison.divergence, comparison.divergence.class_dim
    dtype = comparison.precision(student_logits)
    q = _below_peak(divergence, student_logits, dtype).exp_()
    student_normaliser = q.sum(class_dim, keepdim=True)
    # A student without any class cannot be told anything.
    scale = scale * divergence.temperature * (student_normaliser != 0)
    dense, sparse, mass = None, [], q.new_zeros(())
    for teacher, weight in _weighed(comparison, student_logits):
        if isinstance(teacher, SparseTarget):
            weights = teacher.weights.to(dtype) * (scale * weight).movedim(class_dim, -1)
            sparse.append((teacher.classes, weights))
            mass = mass + weights.sum(-1, keepdim=True).movedim(-1, class_dim)
        else:
            p = _below_peak(divergence, teacher, dtype).exp_()
            normaliser = p.sum(class_dim, keepdim=True)
            p *= scale * weight / _or_one(normaliser)
            mass = mass + scale * weight * (normaliser != 0)
            dense = p if dense is None else dense.add_(p)
    gradient = q.mul_(mass / _or_one(student_normaliser))
    if dense is not None:
        gradient -= dense
    for classes, weights in sparse:
        gradient.movedim(class_dim, -1).scatter_add_(-1, classes, -weights)
    return gradient if comparison.mask is None else gradient.masked_fill_(comparison.left_out_logits(), 0.0)


def _dense_values(
    divergence: Divergence, student: Tensor, log_normaliser: Tensor, teacher_logits: Tensor
) -> Tensor:
    class_dim = divergence.class_dim
    teacher = _below_peak(divergence, teacher_logits, student.dtype)
    p = teacher.exp()
    normaliser = p.sum(class_dim)
    if divergence.function is kl_divergence:
        terms = teacher.sub_(student)
        log_normaliser = log_normaliser - _or_one(normaliser).log()
    else:
        terms = -student
    # Probability 0 makes any term 0, here by leaving out 0 * inf. Other NaN is in a normaliser as well.
    means = terms.mul_(p).nansum(class_dim) / _or_one(normaliser)
    values = (means + log_normaliser).masked_fill_(normaliser == 0, 0.0)
    return values * divergence.temperature**2


def _weighed(comparison: Comparison, student_logits: Tensor) -> list[tuple[Teacher, Tensor | float]]:
    """Return the teachers, and what the divergence from each is multiplied by before they are added up."""
    teachers, weights = comparison.combined(comparison.teachers, student_logits)
    if comparison.shares is None:
        return [(teacher, 1 / len(teachers)) for teacher in teachers]
    total = comparison.total_share()
    weights = [total] if weights is None else [weight * total for weight in weights]
    return [
        (teacher.silenced(weight == 0) if isinstance(teacher, SparseTarget) else teacher, weight)
        for teacher, weight in zip(teachers, weights, strict=True)
    ]


def _below_peak(divergence: Divergence, logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return scaled logits less the largest of their position, if it has any class; a copy."""
    scaled = logits.detach().to(dtype, copy=True)
    if divergence.temperature != 1:
        scaled /= divergence.temperature
    peak = scaled.amax(divergence.class_dim, keepdim=True)
    return scaled.sub_(peak.masked_fill_(torch.isneginf(peak), 0.0))


def _or_one(normaliser: Tensor) -> Tensor:
    """Return a normaliser to divide by: 1 for a position without any class."""
    return normaliser.masked_fill(normaliser == 0, 1.0)
