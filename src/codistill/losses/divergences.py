"""How far a student's prediction is from a teacher's: divergences with one value a position.

Every divergence here detaches the teacher, computes in float32 (float64 stays float64) and leaves
masking and averaging to the caller. A class at -inf in both student and teacher counts 0, with a
gradient of exactly 0; at -inf in the teacher alone it is a class of probability 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, cast, final, get_args

import torch
from torch import Tensor
from typing_extensions import override

from codistill import plugins
from codistill.losses.logits import (
    check_classes,
    check_temperature,
    checked_pair,
    expectation,
    log_coin_probabilities,
    log_probabilities,
    relative_entropy,
)

ActsOn: TypeAlias = Literal["probabilities", "logits", "one_logit"]
DivergenceFunction: TypeAlias = Callable[..., Tensor]


def kl_divergence(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, class_dim: int = -1
) -> Tensor:
    """Return KL(teacher || student) per position, in nats: the distillation loss of Zhang et al. 2018.

    Gradients reach the student only. Multiplied by ``temperature**2`` so that they keep their
    scale when the temperature changes (Hinton et al. 2015, section 2).

    Args:
        student_logits: Unnormalised scores, [batch, ..., classes], classes >= 2.
        teacher_logits: Same shape; detached here.
        temperature: Softmax divisor, > 0.
        class_dim: The dimension of the classes.

    Returns:
        The shape without ``class_dim``, summed over classes; the caller masks and reduces.

    Raises:
        TypeError: If the logits are not floating-point tensors.
        ValueError: If the shapes differ, there are fewer than two classes, or ``temperature <= 0``.

    Example:
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
        >>> kl_divergence(student, teacher)  # 0.75 log(0.75 / 0.5) + 0.25 log(0.25 / 0.5)
        tensor([0.1308])
    """
    student, teacher = _log_probability_pair(student_logits, teacher_logits, temperature, class_dim)
    return relative_entropy(teacher, student, dim=class_dim) * temperature**2


def reverse_kl_divergence(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, class_dim: int = -1
) -> Tensor:
    """Return KL(student || teacher) per position, in nats: the student seeks one of the teacher's modes.

    Gradients reach the student only; scaled by ``temperature**2``. Infinite where the teacher rules a
    class out (-inf) that the student does not.

    Args:
        student_logits: Unnormalised scores, [batch, ..., classes], classes >= 2.
        teacher_logits: Same shape; detached here.
        temperature: Softmax divisor, > 0.
        class_dim: The dimension of the classes.

    Returns:
        The shape without ``class_dim``, summed over classes.

    Raises:
        TypeError: If the logits are not floating-point tensors.
        ValueError: If the shapes differ, there are fewer than two classes, or ``temperature <= 0``.

    Example:
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
        >>> reverse_kl_divergence(student, teacher)  # 0.5 log(0.5 / 0.75) + 0.5 log(0.5 / 0.25)
        tensor([0.1438])
    """
    student, teacher = _log_probability_pair(student_logits, teacher_logits, temperature, class_dim)
    return relative_entropy(student, teacher, dim=class_dim) * temperature**2


def symmetric_kl_divergence(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, class_dim: int = -1
) -> Tensor:
    """Return the mean of KL(teacher || student) and KL(student || teacher) per position, in nats.

    The symmetric KL of Bhojanapalli et al. 2021; the mean of both directions, not their sum, so that a
    weight means as much as with ``kl_divergence``. Gradients reach the student only; scaled by
    ``temperature**2``. Infinite where either rules a class out (-inf) that the other does not.

    Args:
        student_logits: Unnormalised scores, [batch, ..., classes], classes >= 2.
        teacher_logits: Same shape; detached here.
        temperature: Softmax divisor, > 0.
        class_dim: The dimension of the classes.

    Returns:
        The shape without ``class_dim``, summed over classes.

    Raises:
        TypeError: If the logits are not floating-point tensors.
        ValueError: If the shapes differ, there are fewer than two classes, or ``temperature <= 0``.

    Example:
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
        >>> symmetric_kl_divergence(student, teacher)
        tensor([0.1373])
    """
    student, teacher = _log_probability_pair(student_logits, teacher_logits, temperature, class_dim)
    both = relative_entropy(teacher, student, dim=class_dim) + relative_entropy(
        student, teacher, dim=class_dim
    )
    return both / 2 * temperature**2


def jensen_shannon(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, class_dim: int = -1
) -> Tensor:
    """Return the Jensen-Shannon divergence per position, in nats: at most ``log(2) * temperature**2``.

    The mean of KL(student || m) and KL(teacher || m), m the mean of the two distributions. Gradients
    reach the student only, through m too; scaled by ``temperature**2``.

    Args:
        student_logits: Unnormalised scores, [batch, ..., classes], classes >= 2.
        teacher_logits: Same shape; detached here.
        temperature: Softmax divisor, > 0.
        class_dim: The dimension of the classes.

    Returns:
        The shape without ``class_dim``, summed over classes.

    Raises:
        TypeError: If the logits are not floating-point tensors.
        ValueError: If the shapes differ, there are fewer than two classes, or ``temperature <= 0``.

    Example:
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
        >>> jensen_shannon(student, teacher)
        tensor([0.0338])
    """
    student, teacher = _log_probability_pair(student_logits, teacher_logits, temperature, class_dim)
    # The derivative of logaddexp(-inf, -inf) is NaN, so classes that neither allows are taken out first.
    neither = torch.isneginf(student) & torch.isneginf(teacher)
    middle = torch.logaddexp(student.masked_fill(neither, 0.0), teacher.masked_fill(neither, 0.0))
    middle = middle - math.log(2.0)
    both = relative_entropy(teacher, middle, dim=class_dim) + relative_entropy(student, middle, dim=class_dim)
    return both / 2 * temperature**2


def soft_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, class_dim: int = -1
) -> Tensor:
    """Return the cross entropy with the teacher's probabilities as soft targets, in nats (Anil et al. 2018).

    KL(teacher || student) plus the teacher's entropy: the same gradient, another value, and not 0 where
    the two agree. Gradients reach the student only; scaled by ``temperature**2``.

    Args:
        student_logits: Unnormalised scores, [batch, ..., classes], classes >= 2.
        teacher_logits: Same shape; detached here.
        temperature: Softmax divisor, > 0.
        class_dim: The dimension of the classes.

    Returns:
        The shape without ``class_dim``, summed over classes.

    Raises:
        TypeError: If the logits are not floating-point tensors.
        ValueError: If the shapes differ, there are fewer than two classes, or ``temperature <= 0``.

    Example:
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
        >>> soft_cross_entropy(student, teacher)  # log(2), whatever the teacher says: the student is uniform
        tensor([0.6931])
    """
    student, teacher = _log_probability_pair(student_logits, teacher_logits, temperature, class_dim)
    return -expectation(teacher.exp(), student, dim=class_dim) * temperature**2


def logit_mse(
    student_logits: Tensor, teacher_logits: Tensor, *, centred: bool = False, class_dim: int = -1
) -> Tensor:
    """Return the mean over classes of the squared difference of the logits, per position.

    The distillation loss of Sodhani et al. 2020, appendix A.1, which does not say whether it sums or
    means over classes; this means, over the classes that are not at -inf in both. Gradients reach the
    student only. Not finite where a class is at -inf in one of the two.

    Args:
        student_logits: Unnormalised scores, [batch, ..., classes], classes >= 2.
        teacher_logits: Same shape; detached here.
        centred: Subtract from each position's logits their mean first, which no softmax would notice.
        class_dim: The dimension of the classes.

    Returns:
        The shape without ``class_dim``.

    Raises:
        TypeError: If the logits are not floating-point tensors.
        ValueError: If the shapes differ or there are fewer than two classes.

    Example:
        >>> logit_mse(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]]))
        tensor([4.5000])
    """
    student, teacher = checked_pair(student_logits, teacher_logits)
    check_classes(student, class_dim)
    neither = torch.isneginf(student) & torch.isneginf(teacher)
    counted = (~neither).sum(class_dim, keepdim=True).clamp(min=1)
    difference = student.masked_fill(neither, 0.0) - teacher.masked_fill(neither, 0.0)
    if centred:
        centre = difference.sum(class_dim, keepdim=True) / counted
        difference = (difference - centre).masked_fill(neither, 0.0)
    return difference.square().sum(class_dim) / counted.squeeze(class_dim)


def bernoulli_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) of two coins with one logit each, in nats, elementwise.

    For binary classifiers and multi-label heads, whose probability is sigmoid(logit). Gradients reach
    the student only; scaled by ``temperature**2``.

    Args:
        student_logits: One logit a position, any shape, such as [batch] or [batch, labels].
        teacher_logits: Same shape; detached here.
        temperature: Divisor of the logits, > 0.

    Returns:
        The shape of the logits.

    Raises:
        TypeError: If the logits are not floating-point tensors.
        ValueError: If the shapes differ or ``temperature <= 0``.

    Example:
        >>> bernoulli_kl(torch.zeros(1), torch.tensor([3.0]).log())  # a coin of 0.5 against one of 0.75
        tensor([0.1308])
    """
    check_temperature(temperature)
    student, teacher = checked_pair(student_logits, teacher_logits)
    return (
        relative_entropy(
            log_coin_probabilities(teacher, temperature=temperature),
            log_coin_probabilities(student, temperature=temperature),
            dim=-1,
        )
        * temperature**2
    )


def _log_probability_pair(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, class_dim: int
) -> tuple[Tensor, Tensor]:
    check_temperature(temperature)
    student, teacher = checked_pair(student_logits, teacher_logits)
    check_classes(student, class_dim)
    return (
        log_probabilities(student, temperature=temperature, class_dim=class_dim),
        log_probabilities(teacher, temperature=temperature, class_dim=class_dim),
    )


def _centred_logit_mse(student_logits: Tensor, teacher_logits: Tensor, *, class_dim: int = -1) -> Tensor:
    return logit_mse(student_logits, teacher_logits, centred=True, class_dim=class_dim)


class _Known(NamedTuple):
    """What is known of a function; of one that is not ours, only what a package's ``Divergence`` says."""

    function: DivergenceFunction
    acts_on: ActsOn | None = None
    takes_sparse: bool = False
    is_pointwise: bool = True
    temperature: float = 1.0
    class_dim: int = -1


_PRESETS = {
    "kl": _Known(kl_divergence, "probabilities", takes_sparse=True),
    "reverse_kl": _Known(reverse_kl_divergence, "probabilities"),
    "symmetric_kl": _Known(symmetric_kl_divergence, "probabilities"),
    "jensen_shannon": _Known(jensen_shannon, "probabilities"),
    "soft_cross_entropy": _Known(soft_cross_entropy, "probabilities", takes_sparse=True),
    "logit_mse": _Known(logit_mse, "logits"),
    "centred_logit_mse": _Known(_centred_logit_mse, "logits"),
    "bernoulli_kl": _Known(bernoulli_kl, "one_logit"),
}


@final
@dataclass(frozen=True, slots=True, init=False, repr=False)
class Divergence:
    """A distillation loss and how it is applied: what ``distillation_loss=`` turns into.

    A function of your own is called as ``function(student_logits, teacher_logits)``, with a detached
    teacher, both in float32 (float64 stays) and divided by the temperature; what it returns, one value a
    position, is multiplied by ``temperature**2``.

    Args:
        name_or_function: ``"kl"``, ``"reverse_kl"``, ``"symmetric_kl"``, ``"jensen_shannon"``,
            ``"soft_cross_entropy"``, ``"logit_mse"``, ``"centred_logit_mse"``, ``"bernoulli_kl"``, a name
            that an installed package declares in ``codistill.losses``, the function behind one of ours, or
            a function of your own.
        temperature: Divisor of the logits, > 0; 1 where the loss acts on logits.
        class_dim: The dimension of the classes, such as 1 for [batch, classes, height, width].
            Where a package's name stands for a ``Divergence``, 1 and -1 are those that it has.
        acts_on: What a function of your own looks at: ``"probabilities"`` (unchanged if a constant is
            added to a position's logits), ``"logits"`` (the default), or ``"one_logit"`` (no class
            dimension). Known for ours.

    Raises:
        TypeError: If ``name_or_function`` is neither a name nor callable.
        ValueError: If the name is unknown, or the settings contradict one another; or if the package
            that declares the name cannot be used.

    Example:
        >>> Divergence("kl", temperature=2.0)
        Divergence('kl', temperature=2.0, class_dim=-1, acts_on='probabilities')
    """

    name: str
    """The name it was made from, or that of the function."""
    function: DivergenceFunction
    """What is called."""
    temperature: float
    """Divisor of the logits."""
    class_dim: int
    """The dimension of the classes; without meaning where ``acts_on`` is ``"one_logit"``."""
    acts_on: ActsOn
    """``"probabilities"``, ``"logits"`` or ``"one_logit"``."""
    takes_sparse: bool
    """Whether it is linear in the teacher's probabilities, so that a ``SparseTarget`` does; ours alone."""
    is_pointwise: bool
    """Whether it is known to look at each position by itself; ours are."""

    def __init__(
        self,
        name_or_function: str | DivergenceFunction,
        *,
        temperature: float = 1.0,
        class_dim: int = -1,
        acts_on: ActsOn | None = None,
    ) -> None:
        name, known = _resolve(name_or_function)
        if acts_on is not None and acts_on not in get_args(ActsOn):
            choices = ", ".join(map(repr, get_args(ActsOn)))
            raise ValueError(
                f"acts_on must be one of {choices}, got {acts_on!r}. Leave it out for our names."
            )
        if known.acts_on is not None and acts_on not in (None, known.acts_on):
            raise ValueError(
                f"acts_on must be {known.acts_on!r} for {name!r}, got {acts_on!r}. "
                "Leave it out for our names."
            )
        resolved = known.acts_on or acts_on or "logits"
        check_temperature(temperature)
        temperature = known.temperature if temperature == 1 else temperature
        if resolved == "logits" and temperature != 1:
            raise ValueError(
                f"temperature must be 1 for {name!r}, which acts on logits, got {temperature!r}. "
                "Change the weight of the loss, or pass acts_on= if your function takes a softmax."
            )
        if not isinstance(class_dim, int) or isinstance(class_dim, bool):
            raise TypeError(f"class_dim must be an int, got {class_dim!r}. -1 is the last dimension.")
        class_dim = known.class_dim if class_dim == -1 else class_dim
        if resolved == "one_logit" and class_dim != -1:
            raise ValueError(
                f"class_dim must be left out for {name!r}, which has one logit a position, got {class_dim}. "
                "Logits of any shape will do."
            )
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "function", known.function)
        object.__setattr__(self, "temperature", float(temperature))
        object.__setattr__(self, "class_dim", class_dim)
        object.__setattr__(self, "acts_on", resolved)
        object.__setattr__(self, "takes_sparse", known.takes_sparse)
        object.__setattr__(self, "is_pointwise", known.is_pointwise)

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the divergence of student from teacher, one value a position.

        Args:
            student_logits: [batch, ..., classes], or any shape for one logit a position.
            teacher_logits: Same shape; detached here.

        Returns:
            ``position_shape`` of the logits, float32, or float64 for float64 logits.

        Raises:
            TypeError: If the logits are not floating-point tensors, or a function of your own does not
                return a tensor.
            ValueError: If the shapes differ, do not suit the loss, or a function of your own returns
                another shape than one value a position.
        """
        student, teacher = checked_pair(student_logits, teacher_logits)
        expected = self.position_shape(student)
        if self.temperature != 1.0:
            student, teacher = student / self.temperature, teacher / self.temperature
        if self.is_pointwise and self.acts_on != "one_logit":
            values = self.function(student, teacher, class_dim=self.class_dim)
        else:
            values = self.function(student, teacher)
        if not isinstance(values, Tensor):
            raise TypeError(
                f"Divergence {self.name!r} must return a tensor, got {type(values).__name__}. "
                "Return one value a position."
            )
        if values.shape != expected:
            raise ValueError(
                f"Divergence {self.name!r} must return one value a position, {list(expected)} for logits of "
                f"shape {list(student.shape)}, got {list(values.shape)}. Leave averaging to the caller."
            )
        return values if self.temperature == 1.0 else values * self.temperature**2

    def position_shape(self, logits: Tensor) -> torch.Size:
        """Return the shape of one value a position: that of the logits without the class dimension.

        Args:
            logits: [batch, ..., classes], or any shape for one logit a position.

        Returns:
            The shape of this divergence's values, and of the mask over them.

        Raises:
            ValueError: If the logits have no class dimension where one is needed.
        """
        if self.acts_on == "one_logit":
            return logits.shape
        # A distance of logits may be one between single logits; a softmax over a single class says nothing.
        may_be_single = self.acts_on == "logits" and not self.is_pointwise
        check_classes(logits, self.class_dim, at_least=1 if may_be_single else 2)
        shape = list(logits.shape)
        del shape[self.class_dim]
        return torch.Size(shape)

    @override
    def __repr__(self) -> str:
        return (
            f"Divergence({self.name!r}, temperature={self.temperature}, class_dim={self.class_dim}, "
            f"acts_on={self.acts_on!r})"
        )


def as_divergence(divergence: str | DivergenceFunction | Divergence) -> Divergence:
    """Return the ``Divergence`` that a name, a function or a ``Divergence`` stands for.

    Args:
        divergence: One of our names, a name that an installed package declares in ``codistill.losses``, a
            function of student and teacher logits, or a ``Divergence``.

    Returns:
        A ``Divergence``; a bare function of your own acts on logits.

    Raises:
        TypeError: If it is neither a name nor callable.
        ValueError: If the name is unknown, or the package that declares it cannot be used.
    """
    return divergence if isinstance(divergence, Divergence) else Divergence(divergence)


def _resolve(name_or_function: str | DivergenceFunction) -> tuple[str, _Known]:
    if isinstance(name_or_function, str):
        return name_or_function, _PRESETS.get(name_or_function) or _declared(name_or_function)
    if not callable(name_or_function):
        raise TypeError(
            f"distillation_loss must be a name, a function or a Divergence, got {name_or_function!r}. "
            "A function takes (student_logits, teacher_logits)."
        )
    for name, known in _PRESETS.items():
        if known.function is name_or_function:
            return name, known
    own_name = getattr(name_or_function, "__name__", type(name_or_function).__name__)
    return cast("str", own_name), _Known(name_or_function, is_pointwise=False)


def _declared(name: str) -> _Known:
    """Return what an installed package declares under a name."""
    plugin = plugins.find("codistill.losses", name)
    if plugin is None:
        there = ", ".join(map(repr, sorted({*_PRESETS, *plugins.names("codistill.losses")})))
        raise ValueError(
            f"distillation_loss must be one of {there}, or a function, got {name!r}. "
            "A function takes (student_logits, teacher_logits)."
        )
    found = plugin.load()
    if isinstance(found, Divergence):
        return _Known(
            found.function,
            found.acts_on,
            takes_sparse=found.takes_sparse,
            is_pointwise=found.is_pointwise,
            temperature=found.temperature,
            class_dim=found.class_dim,
        )
    # A class is callable too, but what it makes is no tensor.
    if isinstance(found, type) or not callable(found):
        raise plugin.refusal("be a Divergence or a function of student and teacher logits", found)
    return _Known(found, is_pointwise=False)
