"""Predictions that are no numbers, made harmless."""

import torch
from torch import Tensor

from codistill.losses.sparse import SparseTarget
from codistill.losses.targets import DenseTarget, Target


def without_nan(target: Target) -> tuple[Target, float | Tensor]:
    """Return a target and 1, or one of finite values and 0 if some of its values are no numbers.

    Logits may be -inf, which masks a class. It is found out without waiting for the device: there the
    number is a 0-d tensor.

    Args:
        target: What a teacher said.
    """
    if isinstance(target, DenseTarget):
        # One pass and no copy: a sum is NaN or +inf exactly if some logit is, or if both infinities are
        # there. Half precision would overflow by adding up what is finite.
        logits = target.logits
        usable = logits.sum(dtype=torch.float32 if logits.dtype.itemsize < 4 else None) < torch.inf
        if logits.device.type != "cpu":
            return DenseTarget(torch.where(usable, logits, 0.0)), usable.to(torch.float32)
        return (target, 1.0) if usable else (DenseTarget(torch.zeros_like(logits)), 0.0)
    usable = (target.weights.sum() + target.entropy.sum()).isfinite()
    if usable.device.type == "cpu" and usable:
        return target, 1.0
    harmless = SparseTarget(
        classes=torch.where(usable, target.classes, 0),
        weights=torch.where(usable, target.weights, 1.0 / target.weights.shape[-1]),
        entropy=torch.where(usable, target.entropy, 0.0),
        temperature=target.temperature,
        class_count=target.class_count,
    )
    return harmless, 0.0 if usable.device.type == "cpu" else usable.to(torch.float32)
