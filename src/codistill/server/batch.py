"""Questions of several students that one forward can answer."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from codistill.exchange.served.question import Question, call_inputs

# What a sum in another order may change, as a part of the largest logit.
_TOLERANCE = 1e-4
_TOLERANCE_OF_HALF = 5e-2


def layout_of(question: Question) -> Hashable | None:
    """Return what questions must have in common to be merged; None for one that cannot be.

    All tensors of a question must have the same first dimension, that of its samples; names, dtypes and the
    other dimensions must be those of the other questions.
    """
    rows = {tensor.shape[:1] for tensor in question.tensors.values()}
    if len(rows) != 1 or next(iter(rows)) in ((), (0,)):
        return None
    return question.kind, _per_tensor(question, lambda tensor: tensor.shape[1:])


def kind_of(question: Question) -> Hashable:
    """Return what a model's way of merging depends on: names, dtypes and numbers of dimensions."""
    return question.kind, _per_tensor(question, lambda tensor: tensor.dim())


def merge(questions: Sequence[Question]) -> Any:
    """Return what to call a model with for all questions at once; all of one layout."""
    first = questions[0]
    tensors: Mapping[str, Tensor] = {
        name: torch.cat([question.tensors[name] for question in questions]) for name in first.tensors
    }
    return call_inputs(first.kind, tensors)


def split(logits: Tensor, questions: Sequence[Question]) -> list[Tensor] | None:
    """Return each question's part of merged logits; None if they are not one row a sample."""
    rows = [question.rows for question in questions]
    if logits.dim() == 0 or logits.shape[0] != sum(rows):
        return None
    return list(torch.split(logits, rows))


def are_alike(merged: Sequence[Tensor], apart: Sequence[Tensor]) -> bool:
    """Return whether merging has changed no prediction, but for the order of its sums."""
    return all(_is_alike(one, other) for one, other in zip(merged, apart, strict=True))


def _is_alike(merged: Tensor, apart: Tensor) -> bool:
    if merged.shape != apart.shape or merged.dtype != apart.dtype:
        return False
    tolerance = _TOLERANCE_OF_HALF if merged.dtype.itemsize < 4 else _TOLERANCE
    finite = apart.masked_fill(~apart.isfinite(), 0.0)
    scale = float(finite.abs().amax()) if finite.numel() else 0.0
    return torch.allclose(merged, apart, rtol=0.0, atol=tolerance * scale)


def _per_tensor(question: Question, look: Any) -> Hashable:
    return tuple((name, tensor.dtype, look(tensor)) for name, tensor in sorted(question.tensors.items()))
