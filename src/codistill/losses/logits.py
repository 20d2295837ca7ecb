"""The numerics every divergence shares, so that no two drift apart: precision, softmax, masked classes.

A class at -inf has probability 0. Nothing here turns -inf into NaN, forward or backward.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def log_probabilities(logits: Tensor, *, temperature: float, class_dim: int) -> Tensor:
    """Return log softmax(logits / temperature), -inf throughout where every class is at -inf.

    Args:
        logits: Unnormalised scores, float32 or float64.
        temperature: Softmax divisor, > 0.
        class_dim: The dimension of the classes.

    Returns:
        The shape of ``logits``; never NaN for logits that are finite or -inf.
    """
    scaled = logits if temperature == 1.0 else logits / temperature
    # A softmax over nothing is 0 / 0, forward and backward; here it has probability 0 everywhere.
    nothing = torch.isneginf(scaled.detach().amax(class_dim, keepdim=True))
    if not scaled.requires_grad:
        return F.log_softmax(scaled, class_dim).masked_fill_(nothing, -math.inf)
    return F.log_softmax(scaled.masked_fill(nothing, 0.0), class_dim).masked_fill(nothing, -math.inf)


def log_coin_probabilities(logits: Tensor, *, temperature: float) -> Tensor:
    """Return the log-probabilities of yes and no for one logit a position.

    Args:
        logits: One logit a position, float32 or float64.
        temperature: Divisor of the logits, > 0.

    Returns:
        The shape of ``logits`` and a last dimension of 2: log sigmoid(z), log (1 - sigmoid(z)).
    """
    scaled = logits if temperature == 1.0 else logits / temperature
    return torch.stack((F.logsigmoid(scaled), F.logsigmoid(-scaled)), dim=-1)


def checked_pair(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return both logits in the precision divergences are computed in, the teacher's detached.

    Args:
        student_logits: Floating point.
        teacher_logits: Floating point, same shape.

    Returns:
        Student and teacher: float64 if either is, else float32.

    Raises:
        TypeError: If one of them is not a floating-point tensor.
        ValueError: If the shapes differ.
    """
    for name, logits in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(
                f"{name} must be a floating-point tensor, got {got}. "
                "Where a model returns more than logits, pass outputs_to_logits."
            )
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"teacher_logits must have the shape of student_logits, {list(student_logits.shape)}, "
            f"got {list(teacher_logits.shape)}. A divergence does not broadcast."
        )
    dtype = precision(student_logits, teacher_logits)
    return student_logits.to(dtype), teacher_logits.detach().to(dtype)


def precision(*logits: Tensor) -> torch.dtype:
    """Return what to compute in: float64 if any of the logits are, else float32.

    Args:
        logits: Floating point.
    """
    return torch.float64 if any(each.dtype == torch.float64 for each in logits) else torch.float32


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not a finite number > 0.

    Args:
        temperature: The divisor to check.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not finite or not > 0.
    """
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise TypeError(
            f"temperature must be a number, got {temperature!r}. 1 leaves the logits as they are."
        )
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(
            f"temperature must be a finite number > 0, got {temperature!r}. 1 leaves the logits as they are."
        )


def check_classes(logits: Tensor, class_dim: int, *, at_least: int = 2) -> None:
    """Refuse logits without a batch dimension and a class dimension.

    Args:
        logits: [batch, ..., classes].
        class_dim: The dimension of the classes.
        at_least: The fewest classes that make sense; a softmax over one is always 1.

    Raises:
        ValueError: If ``class_dim`` is not a dimension, or there are too few dimensions or classes.
    """
    shape = list(logits.shape)
    if len(shape) >= 2 and not -len(shape) <= class_dim < len(shape):
        raise ValueError(
            f"class_dim must be a dimension of the logits, got {class_dim} for logits of shape {shape}. "
            "-1 is the last one."
        )
    if len(shape) < 2 or shape[class_dim] < at_least:
        raise ValueError(
            f"student_logits must have a batch and at least {at_least} classes, got shape {shape} with "
            f"class_dim={class_dim}. For one logit a position use 'bernoulli_kl', or acts_on='one_logit' "
            "with a function of your own."
        )


def relative_entropy(log_p: Tensor, log_q: Tensor, *, dim: int) -> Tensor:
    """Return KL(p || q), in nats.

    Args:
        log_p: Log-probabilities along ``dim``.
        log_q: Same shape.
        dim: The dimension to sum over.

    Returns:
        The shape without ``dim``; infinite where q rules out what p does not.
    """
    return expectation(log_p.exp(), log_p - log_q, dim=dim)


def expectation(probabilities: Tensor, values: Tensor, *, dim: int) -> Tensor:
    """Return the sum of probability times value, where probability 0 makes any value 0.

    Args:
        probabilities: Along ``dim``.
        values: Same shape; anything, also NaN, where the probability is 0.
        dim: The dimension to sum over.

    Returns:
        The shape without ``dim``.
    """
    # 0 * log 0 is 0. Filled before the product: 0 * inf is NaN, and so is its derivative.
    return (probabilities * values.masked_fill(probabilities == 0, 0.0)).sum(dim)
