"""The sum over all positions, in parts, so that large logits are never copied in float32 as a whole.

Each part is computed anew in the backward: beside the logits themselves, a term of [batch, tokens, 50,000
classes] needs their gradient, in their own dtype, and a few buffers of a part's size.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from codistill.losses.comparison import Comparison
from codistill.losses.linear import linear_gradient, linear_values

# Logits of a part: what a CPU's cache holds a few float32 buffers of; on an accelerator, what keeps it busy.
_PART = 2**17
_PART_OF_AN_ACCELERATOR = 2**25


def summed(comparison: Comparison, student_logits: Tensor) -> Tensor:
    """Return the sum of the comparison's values over all positions.

    Large logits are gone through in parts, if the divergence is one of ours: a function of a user's own may
    look at several positions at once. Not where ``torch.compile`` is at work, which fuses the whole.

    Args:
        comparison: What the student is compared with.
        student_logits: Where gradients go; also second ones, at the cost of the whole at once.

    Returns:
        0-d, float32, or float64 for float64 logits.
    """
    is_plain = type(student_logits) in (Tensor, nn.Parameter)
    if (
        comparison.divergence.is_pointwise
        and is_plain
        and student_logits.numel() > _part_size(student_logits)
        and not torch.compiler.is_compiling()
    ):
        total: Tensor = _SumInParts.apply(student_logits, comparison)  # type: ignore[no-untyped-call]
        return total
    return comparison.values(student_logits).sum()


class _SumInParts(torch.autograd.Function):
    @staticmethod
    @override
    def forward(student_logits: Tensor, comparison: Comparison) -> Tensor:
        values_of = linear_values if comparison.divergence.takes_sparse else Comparison.values
        # In float64, as thousands of sums are added up one by one; in place, as small tensors left among
        # large buffers that are freed would keep the heap from shrinking.
        total = student_logits.new_zeros((), dtype=torch.float64)
        for part in _parts(comparison, student_logits):
            total += values_of(comparison.at(part), student_logits[part]).sum()
        return total.to(comparison.precision(student_logits))

    @staticmethod
    @override
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        student_logits, ctx.comparison = inputs
        # Those of the comparison are saved too, so that autograd notices if somebody writes to them.
        ctx.save_for_backward(student_logits, *ctx.comparison.constants())

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (scale,) = gradients
        student_logits, *_ = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives: of what autograd can see
            total = ctx.comparison.values(student_logits).sum()
            (gradient,) = torch.autograd.grad(total, student_logits, scale, create_graph=True)
            return gradient, None
        gradient = torch.empty_like(student_logits)
        for part in _parts(ctx.comparison, student_logits):
            gradient[part] = _gradient(ctx.comparison.at(part), student_logits[part], scale)
        return gradient, None


def _gradient(comparison: Comparison, student_logits: Tensor, scale: Tensor) -> Tensor:
    if comparison.divergence.takes_sparse:
        return linear_gradient(comparison, student_logits, scale)
    with torch.enable_grad():
        student_logits = student_logits.detach().requires_grad_()
        total = comparison.values(student_logits).sum()
    (gradient,) = torch.autograd.grad(total, student_logits, scale)
    return gradient


def _parts(comparison: Comparison, logits: Tensor) -> Iterator[tuple[slice, ...]]:
    """Yield where the parts of the logits are, each with all classes of its positions."""
    divergence = comparison.divergence
    whole = None if divergence.acts_on == "one_logit" else divergence.class_dim % logits.dim()
    return _split(list(logits.shape), 0, whole, _part_size(logits))


def _split(shape: list[int], dim: int, whole: int | None, size: int) -> Iterator[tuple[slice, ...]]:
    if dim == len(shape):
        yield ()
        return
    if dim == whole:
        # Its classes stay together.
        for rest in _split(shape, dim + 1, whole, size // shape[dim]):
            yield (slice(None), *rest)
        return
    each = math.prod(shape[dim + 1 :])
    step = max(1, size // max(1, each))
    for start in range(0, shape[dim], step):
        for rest in _split(shape, dim + 1, whole, size):
            yield (slice(start, start + step), *rest)


def _part_size(logits: Tensor) -> int:
    return _PART if logits.device.type == "cpu" else _PART_OF_AN_ACCELERATOR
