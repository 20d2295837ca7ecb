"""The contract of a divergence, for ours and for yours.

Example:
    >>> from codistill.losses import Divergence
    >>> check_divergence(Divergence("kl", temperature=2.0))
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from codistill.losses.divergences import Divergence
from codistill.losses.sparse import sample_top_k, sparse_divergence

_SLACK = 1e-6


def check_divergence(
    divergence: Divergence,
    *,
    make_logits: Callable[[torch.Generator], Tensor] | None = None,
    is_zero_at_equality: bool = True,
    allows_masked_classes: bool = True,
) -> None:
    """Check that a divergence keeps what ``distillation_term`` relies on; return if it does.

    One value a position; no gradient into the teacher; a right gradient into the student (in float64,
    against differences); half precision computed in float32; from a sparse target, if it takes any, what
    it is from all logits; and, as far as the two flags say so, never below 0, 0 where the two agree, and
    finite with a gradient of exactly 0 at shared -inf classes.

    Args:
        divergence: Wrap a function of your own in a ``Divergence`` first.
        make_logits: Returns new float64 logits of two or more positions from a generator; by default
            [2, 3, 4] with 4 classes in the divergence's class dimension, or [5] where it takes one logit.
        is_zero_at_equality: False for losses that are not, such as ``"soft_cross_entropy"``.
        allows_masked_classes: False for functions that are never given -inf.

    Raises:
        AssertionError: With a message that says which promise is broken.
    """
    generator = torch.Generator().manual_seed(0)
    make = make_logits or _default_maker(divergence)
    student, teacher = make(generator), make(generator)
    _check_shape(divergence, student, teacher)
    _check_gradients(divergence, student, teacher)
    _check_half_precision(divergence, student, teacher)
    if divergence.takes_sparse:
        _check_sparse(divergence, student, teacher)
    if is_zero_at_equality:
        _check_is_a_distance(divergence, student, teacher)
    if allows_masked_classes:
        _check_masked_classes(divergence, student, teacher)


def _default_maker(divergence: Divergence) -> Callable[[torch.Generator], Tensor]:
    def make(generator: torch.Generator) -> Tensor:
        if divergence.acts_on == "one_logit":
            return torch.randn(5, generator=generator, dtype=torch.float64)
        logits = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
        return logits.movedim(-1, divergence.class_dim)

    return make


def _check_shape(divergence: Divergence, student: Tensor, teacher: Tensor) -> None:
    values = divergence(student, teacher)
    expected = divergence.position_shape(student)
    assert values.shape == expected, f"one value a position is {list(expected)}, got {list(values.shape)}"
    assert values.dtype == torch.float64, f"float64 logits must be computed in float64, got {values.dtype}"
    assert bool(values.isfinite().all()), f"finite logits must have a finite value, got {values}"


def _check_gradients(divergence: Divergence, student: Tensor, teacher: Tensor) -> None:
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    values = divergence(student, teacher)
    of_student, of_teacher = torch.autograd.grad(values.sum(), (student, teacher), materialize_grads=True)
    assert not bool(of_teacher.any()), "no gradient may reach the teacher"
    assert bool(of_student.any()), "a gradient must reach the student"
    assert torch.autograd.gradcheck(lambda logits: divergence(logits, teacher.detach()), student)


def _check_half_precision(divergence: Divergence, student: Tensor, teacher: Tensor) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        student_half, teacher_half = student.to(dtype), teacher.to(dtype)
        values = divergence(student_half, teacher_half)
        assert values.dtype == torch.float32, f"{dtype} must be computed in float32, got {values.dtype}"
        exact = divergence(student_half.float(), teacher_half.float())
        assert torch.equal(values, exact), f"{dtype} must be computed as its float32 copy is"


def _check_sparse(divergence: Divergence, student: Tensor, teacher: Tensor) -> None:
    target = sample_top_k(
        teacher,
        k=teacher.shape[divergence.class_dim],
        sampled=0,
        temperature=divergence.temperature,
        class_dim=divergence.class_dim,
    )
    student = student.clone().requires_grad_()
    results = []
    for values in (sparse_divergence(divergence, student, target), divergence(student, teacher)):
        (gradient,) = torch.autograd.grad(values.sum(), student)
        results.append((values.detach(), gradient))
    # A sparse target's weights are in float32.
    close = [
        torch.allclose(one, other, rtol=_SLACK, atol=10 * _SLACK) for one, other in zip(*results, strict=True)
    ]
    assert all(close), "a sparse target of all classes must count as their logits do"


def _check_is_a_distance(divergence: Divergence, student: Tensor, teacher: Tensor) -> None:
    values = divergence(student.float(), teacher.float())
    assert bool((values >= -_SLACK).all()), f"a divergence is at least 0, got {values.min()}"
    assert bool((values > _SLACK).any()), "a divergence sees that two predictions differ"
    equal = divergence(student.float(), student.float())
    assert bool((equal.abs() <= _SLACK).all()), f"a divergence is 0 where the two agree, got {equal}"


def _check_masked_classes(divergence: Divergence, student: Tensor, teacher: Tensor) -> None:
    # In the first position one class (or the one logit) is ruled out, in the last position all are.
    ruled_out = torch.zeros_like(student, dtype=torch.bool)
    by_position = (
        ruled_out if divergence.acts_on == "one_logit" else ruled_out.movedim(divergence.class_dim, -1)
    )
    first, last = (0,) * by_position.dim(), (-1,) * by_position.dim()
    by_position[first] = True
    by_position[last if divergence.acts_on == "one_logit" else last[:-1]] = True
    student = student.masked_fill(ruled_out, -math.inf).requires_grad_()
    values = divergence(student, teacher.masked_fill(ruled_out, -math.inf))
    assert bool(values.isfinite().all()), f"classes at -inf in both must count 0, got {values}"
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert bool(gradient.isfinite().all()), f"classes at -inf must not spoil the gradient, got {gradient}"
    assert bool((gradient[ruled_out] == 0).all()), "classes at -inf in both must have a gradient of exactly 0"
