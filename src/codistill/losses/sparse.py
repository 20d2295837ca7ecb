"""What a teacher says about a batch in a few classes a position, and losses that this is enough for."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from codistill.losses.divergences import Divergence, kl_divergence
from codistill.losses.draws import draw_classes
from codistill.losses.logits import (
    check_classes,
    check_temperature,
    expectation,
    log_probabilities,
    precision,
)


@final
@dataclass(frozen=True, slots=True, eq=False)
class SparseTarget:
    """A teacher's distribution at one temperature, as weights of a few classes.

    Made by ``sample_top_k``: what is linear in the distribution is right on average over the draws. Whether
    the classes exist is not checked (that would wait for the device).

    Raises:
        TypeError: If a tensor has the wrong dtype, or a number is none.
        ValueError: If the shapes do not fit one another, or a number is out of range.
    """

    classes: Tensor
    """int64, [positions..., k], on the student's device; a class may repeat, its weights add up."""
    weights: Tensor
    """float32, [positions..., k], at least 0; they sum to 1 a position."""
    entropy: Tensor
    """float32, [positions...], of the whole distribution, in nats."""
    temperature: float
    """The temperature of the divergence that it was made for."""
    class_count: int
    """How many classes the whole distribution has."""

    def __post_init__(self) -> None:
        if not isinstance(self.classes, Tensor) or self.classes.dtype != torch.int64:
            raise TypeError(
                f"classes must be an int64 tensor, got {_dtype(self.classes)}. Use classes.long()."
            )
        for name, tensor in (("weights", self.weights), ("entropy", self.entropy)):
            if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
                raise TypeError(f"{name} must be a float32 tensor, got {_dtype(tensor)}. Use .float().")
        if self.classes.dim() < 2 or self.weights.shape != self.classes.shape:
            raise ValueError(
                f"weights must be one for each class, [positions..., k], got {list(self.weights.shape)} for "
                f"classes of shape {list(self.classes.shape)}. The classes are last, whatever class_dim is."
            )
        if self.entropy.shape != self.classes.shape[:-1]:
            raise ValueError(
                f"entropy must be one a position, {list(self.classes.shape[:-1])}, "
                f"got {list(self.entropy.shape)}. It has no class dimension."
            )
        check_temperature(self.temperature)
        if not isinstance(self.class_count, int) or isinstance(self.class_count, bool):
            raise TypeError(f"class_count must be an int, got {self.class_count!r}. It is logits.shape[-1].")
        if self.class_count < 2:
            raise ValueError(
                f"class_count must be >= 2, got {self.class_count}. A single class says nothing."
            )

    def logits_shape(self, class_dim: int) -> torch.Size:
        """Return the shape of the student's logits that it is a target for.

        Args:
            class_dim: The dimension of the classes in it.
        """
        shape = list(self.entropy.shape)
        shape.insert(class_dim % (len(shape) + 1), self.class_count)
        return torch.Size(shape)

    def at(self, positions: tuple[slice, ...]) -> "SparseTarget":
        """Return the target for some of the positions.

        Args:
            positions: One slice a dimension of the entropy.
        """
        return replace(
            self,
            classes=self.classes[positions],
            weights=self.weights[positions],
            entropy=self.entropy[positions],
        )

    def silenced(self, where: Tensor) -> "SparseTarget":
        """Return the target with a divergence of exactly 0 at some of the positions, whatever it said there.

        Args:
            where: Boolean, a shape that broadcasts to that of the entropy.
        """
        return replace(
            self,
            weights=self.weights.masked_fill(where.unsqueeze(-1), 0.0),
            entropy=self.entropy.masked_fill(where, 0.0),
        )


def sample_top_k(
    logits: Tensor,
    *,
    k: int,
    sampled: int,
    temperature: float = 1.0,
    class_dim: int = -1,
    generator: torch.Generator | None = None,
) -> SparseTarget:
    """Return a few classes of each position that stand for all of them, without bias.

    The ``k - sampled`` largest probabilities as they are, and ``sampled`` draws with replacement from the
    others, each of which carries an equal part of the mass that is left (Sparse Logit Sampling,
    arXiv:2503.16870). Keeping the largest alone would be biased, so something must be drawn unless ``k``
    takes all classes. Classes at -inf have no weight; NaN in a position makes all its weights NaN.

    Args:
        logits: Unnormalised scores, [batch, ..., classes], classes >= 2.
        k: Classes a position, >= 1; all of them, and nothing drawn, if there are no more.
        sampled: How many of the k are drawn, 1 to k; may be 0 where k takes all classes.
        temperature: Softmax divisor, > 0: that of the divergence.
        class_dim: The dimension of the classes.
        generator: Where the draws come from, on the device of the logits; None for the device's own.

    Returns:
        A target with min(k, classes) classes a position: the largest first, by falling weight, then the
        draws, with one weight; in the order of their numbers if they are all.

    Raises:
        TypeError: If the logits are not a floating-point tensor, or a number is none.
        ValueError: If a number is out of range, or there are fewer than two classes.

    Example:
        >>> logits = torch.tensor([[0.6, 0.3, 0.1, 0.0]]).log()
        >>> target = sample_top_k(logits, k=3, sampled=2, generator=torch.Generator().manual_seed(0))
        >>> target.classes, target.weights
        (tensor([[0, 1, 2]]), tensor([[0.6000, 0.2000, 0.2000]]))
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(
            f"logits must be a floating-point tensor, got {_dtype(logits)}. "
            "Where a model returns more than logits, pass outputs_to_logits."
        )
    check_temperature(temperature)
    check_classes(logits, class_dim)
    class_count = logits.shape[class_dim]
    check_draws(k, sampled, class_count)
    logits = logits.detach().movedim(class_dim, -1)
    if k >= class_count:
        return _all_classes(logits, temperature)
    positions = logits.shape[:-1]
    # Drawn at once, so that they do not depend on how the positions are gone through.
    uniforms = torch.rand(
        (positions.numel(), sampled, 2), dtype=torch.float64, device=logits.device, generator=generator
    )
    draws = draw_classes(
        logits.reshape(-1, class_count), uniforms, exact=k - sampled, temperature=temperature
    )
    return SparseTarget(
        draws.classes.view(*positions, k),
        draws.weights.float().view(*positions, k),
        draws.entropy.float().view(positions),
        float(temperature),
        class_count,
    )


def check_draws(k: int, sampled: int, class_count: int | None = None) -> None:
    """Refuse numbers of classes that cannot stand for a distribution without bias.

    Args:
        k: Classes a position.
        sampled: How many of them are drawn.
        class_count: How many there are; None if that is not known yet, and perhaps no more than k.

    Raises:
        TypeError: If they are not ints.
        ValueError: If ``k`` is not >= 1, or ``sampled`` not from 1 to k (from 0 if k takes all classes).
    """
    for name, value in (("k", k), ("sampled", sampled)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an int, got {value!r}. It counts classes a position.")
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}. It counts classes a position.")
    if not 0 <= sampled <= k:
        raise ValueError(f"sampled must be from 0 to k, {k}, got {sampled}. It counts those that are drawn.")
    if sampled == 0 and class_count is not None and k < class_count:
        raise ValueError(
            f"sampled must be >= 1 for k={k} of {class_count} classes, got 0. The largest alone are biased: "
            "they leave out what the others would say; let at least one class be drawn."
        )


def sparse_divergence(divergence: Divergence, student_logits: Tensor, target: SparseTarget) -> Tensor:
    """Return the divergence of the student from a sparse teacher, one value a position.

    Value and gradient are, on average over the draws, those of the whole distribution. A single value may
    be below 0. Gradients reach the student only.

    Args:
        divergence: One that ``takes_sparse``.
        student_logits: [batch, ..., classes].
        target: At the divergence's temperature; detached here.

    Returns:
        ``position_shape`` of the logits, float32, or float64 for float64 logits.
    """
    student = student_logits.to(precision(student_logits))
    log_q = log_probabilities(student, temperature=divergence.temperature, class_dim=divergence.class_dim)
    return sparse_values(
        divergence, log_q.movedim(divergence.class_dim, -1).gather(-1, target.classes), target
    )


def sparse_values(divergence: Divergence, log_q: Tensor, target: SparseTarget) -> Tensor:
    """Return what ``sparse_divergence`` does, from the student's log-probabilities of the target's classes.

    Args:
        divergence: One that ``takes_sparse``.
        log_q: At the divergence's temperature, the shape of ``target.classes``.
        target: As for ``sparse_divergence``.
    """
    values = -expectation(target.weights.detach().to(log_q.dtype), log_q, dim=-1)
    if divergence.function is kl_divergence:
        values = values - target.entropy.detach()
    return values * divergence.temperature**2


def validate_sparse(divergence: Divergence, combine: str, teachers: int | None = None) -> None:
    """Refuse losses that sparse teachers would bias.

    Args:
        divergence: The distillation loss.
        combine: ``"losses"``, ``"probabilities"`` or ``"logits"``.
        teachers: How many teachers there are; None if that is not known.

    Raises:
        ValueError: If the loss is not linear in the teacher's probabilities; if logits are to be combined,
            of which a sparse teacher has none; or if it is a KL from the mean of several distributions,
            whose entropy the draws do not tell.
    """
    if not divergence.takes_sparse:
        raise ValueError(
            f"distillation_loss must be 'kl' or 'soft_cross_entropy' for sparse teachers, got "
            f"{divergence.name!r}. Only what is linear in the teacher's probabilities is right on average."
        )
    if combine == "logits":
        raise ValueError(
            "combine must be 'losses' or 'probabilities' for sparse teachers, got 'logits'. "
            "They hold probabilities of a few classes, and no logits."
        )
    if combine == "probabilities" and divergence.function is kl_divergence and teachers != 1:
        raise ValueError(
            "combine must be 'losses' for 'kl' and several sparse teachers, got 'probabilities'. Pass "
            "distillation_loss='soft_cross_entropy', which has the same gradient: the entropy of the mean "
            "distribution, a part of the KL's value, is not known from a few classes."
        )


def _all_classes(logits: Tensor, temperature: float) -> SparseTarget:
    log_p = log_probabilities(logits.to(precision(logits)), temperature=temperature, class_dim=-1)
    p = log_p.exp()
    classes = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape).contiguous()
    entropy = -expectation(p, log_p, dim=-1)
    return SparseTarget(classes, p.float(), entropy.float(), float(temperature), logits.shape[-1])


def _dtype(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
