"""Numbers that depend on the step: weights of losses, learning rates, weight decays."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, final

from codistill.arguments import check_int

if TYPE_CHECKING:  # planning a run must not need torch
    import torch

_COUNTED = "Steps are whole, and counted from 0."

Schedule: TypeAlias = Callable[[int], float]


@final
@dataclass(frozen=True, slots=True)
class Constant:
    """The same number at every step.

    Raises:
        ValueError: If ``value`` is not a finite number >= 0.
    """

    value: float
    """What it returns."""

    def __post_init__(self) -> None:
        _check_value("value", self.value)

    def __call__(self, step: int) -> float:  # noqa: ARG002 - the signature of every schedule
        """Return the value, whatever ``step`` is."""
        return self.value


@final
@dataclass(frozen=True, slots=True)
class AtDrops:
    """A number that changes at given steps, such as those at which the learning rate drops.

    Raises:
        ValueError: If a value is not a finite number >= 0, or steps are negative or repeat.

    Example:
        >>> weight_decay = AtDrops(1e-4, {15_000: 1e-5, 30_000: 0.0})
        >>> weight_decay(14_999), weight_decay(15_000), weight_decay(99_999)
        (0.0001, 1e-05, 0.0)
    """

    initial: float
    """The value before the first drop."""
    drops: Mapping[int, float] | Iterable[tuple[int, float]]
    """Step -> value from that step on; kept as a tuple of pairs in order of steps."""

    def __post_init__(self) -> None:
        _check_value("initial", self.initial)
        pairs = tuple(self.drops.items() if isinstance(self.drops, Mapping) else self.drops)
        if len({step for step, _ in pairs}) != len(pairs):
            raise ValueError(f"drops must have one value a step, got {pairs!r}. Remove the repeated step.")
        for step, value in pairs:
            check_int("drops", step, minimum=0, hint=_COUNTED)
            _check_value("drops", value)
        object.__setattr__(self, "drops", tuple(sorted(pairs)))

    def __call__(self, step: int) -> float:
        """Return the value at ``step``."""
        value = self.initial
        for from_step, new_value in dict(self.drops).items():
            if step >= from_step:
                value = new_value
        return value


@final
@dataclass(frozen=True, slots=True)
class Exponential:
    """A number that is multiplied by a factor every so many steps, such as by 1.1 each epoch.

    Raises:
        TypeError: If ``every_steps`` is not an int.
        ValueError: If a number is not finite or not > 0, or ``maximum < initial``.
    """

    initial: float
    """The value at step 0, > 0."""
    factor: float
    """What it is multiplied by, > 0; below 1 it decays."""
    every_steps: int = 1
    """Steps between two multiplications, >= 1."""
    maximum: float | None = None
    """Where growth stops; None: nowhere."""

    def __post_init__(self) -> None:
        _check_value("initial", self.initial, positive=True)
        _check_value("factor", self.factor, positive=True)
        check_int("every_steps", self.every_steps, minimum=1, hint=_COUNTED)
        if self.maximum is not None:
            _check_value("maximum", self.maximum, positive=True)
            if self.maximum < self.initial:
                raise ValueError(
                    f"maximum must be >= initial, {self.initial}, got {self.maximum}. Lower initial instead."
                )

    def __call__(self, step: int) -> float:
        """Return the value at ``step``.

        Raises:
            OverflowError: If it has grown beyond every float and there is no ``maximum``.
        """
        try:
            value = self.initial * self.factor ** (step // self.every_steps)
        except OverflowError:
            value = math.inf
        if self.maximum is not None:
            return min(value, self.maximum)
        if math.isinf(value):
            raise OverflowError(
                f"Exponential must stay finite, got {self.initial} * {self.factor}**"
                f"{step // self.every_steps} at step {step}. Pass maximum=."
            )
        return value


@final
@dataclass(frozen=True, slots=True)
class Linear:
    """A straight line from one number to another, flat before and after.

    Raises:
        TypeError: If a count of steps is not an int.
        ValueError: If a value is not a finite number >= 0, ``steps < 1`` or ``begin_step < 0``.
    """

    start: float
    """The value up to ``begin_step``."""
    end: float
    """The value from ``begin_step + steps`` on."""
    steps: int
    """How many steps it takes, >= 1."""
    begin_step: int = 0
    """The last step with the value ``start``, >= 0."""

    def __post_init__(self) -> None:
        _check_ramp(self.start, self.end, self.steps, self.begin_step)

    def __call__(self, step: int) -> float:
        """Return the value at ``step``."""
        share = _share_done(step, self.steps, self.begin_step)
        return self.start * (1 - share) + self.end * share


@final
@dataclass(frozen=True, slots=True)
class Cosine:
    """Half a cosine from one number to another, flat before and after.

    Raises:
        TypeError: If a count of steps is not an int.
        ValueError: If a value is not a finite number >= 0, ``steps < 1`` or ``begin_step < 0``.
    """

    start: float
    """The value up to ``begin_step``."""
    end: float
    """The value from ``begin_step + steps`` on."""
    steps: int
    """How many steps it takes, >= 1."""
    begin_step: int = 0
    """The last step with the value ``start``, >= 0."""

    def __post_init__(self) -> None:
        _check_ramp(self.start, self.end, self.steps, self.begin_step)

    def __call__(self, step: int) -> float:
        """Return the value at ``step``."""
        share = (1 - math.cos(math.pi * _share_done(step, self.steps, self.begin_step))) / 2
        return self.start * (1 - share) + self.end * share


@final
@dataclass(frozen=True, slots=True)
class BurnIn:
    """0 for the first steps, then another schedule, at once and without a ramp.

    Anil et al. 2018 switch the distillation loss on hard, so that peers have grown apart before they
    learn from each other. The schedule behind it sees the absolute step, not one counted from the switch.

    Raises:
        TypeError: If ``schedule`` is neither a number nor callable, or ``steps`` not an int.
        ValueError: If ``steps`` is negative or a number is not finite and >= 0.

    Example:
        >>> weight = BurnIn(0.5, 3000)
        >>> weight(2999), weight(3000)
        (0.0, 0.5)
    """

    schedule: float | Schedule
    """What follows; a number is constant."""
    steps: int
    """How many steps are 0, >= 0."""

    def __post_init__(self) -> None:
        check_int("steps", self.steps, minimum=0, hint=_COUNTED)
        object.__setattr__(self, "schedule", as_schedule(self.schedule))

    def __call__(self, step: int) -> float:
        """Return the value at ``step``."""
        return 0.0 if step < self.steps else as_schedule(self.schedule)(step)


def as_schedule(number_or_schedule: float | Schedule) -> Schedule:
    """Return the schedule that a number or a schedule stands for.

    Args:
        number_or_schedule: A finite number >= 0, or a function of the step.

    Returns:
        A function of the step; for a number, ``Constant``.

    Raises:
        TypeError: If it is neither.
        ValueError: If the number is not finite or negative.
    """
    if isinstance(number_or_schedule, (int, float)) and not isinstance(number_or_schedule, bool):
        return Constant(float(number_or_schedule))
    if callable(number_or_schedule):
        return number_or_schedule
    raise TypeError(
        f"schedule must be a number or a function of the step, got {number_or_schedule!r}. "
        "codistill.schedules has some."
    )


def apply(
    optimizer: "torch.optim.Optimizer",
    *,
    step: int | None = None,
    lr: float | Schedule | None = None,
    weight_decay: float | Schedule | None = None,
) -> None:
    """Set the learning rate, the weight decay or both of an optimizer; call it before its ``step()``.

    Lowering the weight decay when the learning rate drops is what keeps codistillation from
    over-regularising: the distillation loss regularises already, and Sodhani et al. 2020, section 3.2,
    go from 1e-4 to 1e-5 to 0. The learning rate goes to every parameter group, times the group's
    ``"lr_scale"`` if it has one. The weight decay goes to the groups that were built with one, so that
    norms and biases that were left out stay out, also after a schedule that went through 0; what a group
    was built with is kept in it as ``"initial_weight_decay"``, and so in the optimizer's ``state_dict``.

    Args:
        optimizer: Changed in place.
        step: The step the schedules are asked for, >= 0; needed if there is one.
        lr: A number or a schedule, >= 0.
        weight_decay: A number or a schedule, >= 0.

    Raises:
        TypeError: If a schedule is given without ``step``, or a value is of the wrong type.
        ValueError: If neither is given, a value is not finite and >= 0, a group has no weight decay to
            set, or none was built with one > 0.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, weight_decay=1e-4)
        >>> apply(optimizer, step=60, lr=0.1, weight_decay=AtDrops(1e-4, {30: 1e-5, 60: 0.0}))
        >>> optimizer.param_groups[0]["weight_decay"]
        0.0
    """
    if lr is None and weight_decay is None:
        raise ValueError("lr or weight_decay must be given, got neither. There is nothing to apply.")
    if lr is not None:
        value = _value_at("lr", lr, step)
        for group in optimizer.param_groups:
            _set_learning_rate(group, value * group.get("lr_scale", 1.0))
    if weight_decay is not None:
        _set_weight_decay(optimizer, _value_at("weight_decay", weight_decay, step))


def _set_learning_rate(group: dict[str, Any], value: float) -> None:
    if hasattr(group["lr"], "fill_"):  # a tensor, which compiled and captured optimizers hold on to
        group["lr"].fill_(value)
    else:
        group["lr"] = value


def _set_weight_decay(optimizer: "torch.optim.Optimizer", value: float) -> None:
    for index, group in enumerate(optimizer.param_groups):
        if "weight_decay" not in group:
            raise ValueError(
                f"optimizer must have a weight decay in every parameter group, got none in group {index} of "
                f"{type(optimizer).__name__}. Leave weight_decay out."
            )
        group.setdefault("initial_weight_decay", group["weight_decay"])
    decaying = [group for group in optimizer.param_groups if group["initial_weight_decay"] != 0]
    if value > 0 and not decaying:
        raise ValueError(
            "optimizer must have been built with a weight decay > 0 in some group, got 0 in all groups of "
            f"{type(optimizer).__name__}. Those with 0 are taken for norms and biases and left alone."
        )
    for group in decaying:
        group["weight_decay"] = value


def _value_at(name: str, number_or_schedule: float | Schedule, step: int | None) -> float:
    schedule = as_schedule(number_or_schedule)
    if step is not None:
        check_int("step", step, minimum=0, hint=_COUNTED)
    elif not isinstance(schedule, Constant):
        raise TypeError(f"step must be given with a schedule for {name}, got None. Pass step=.")
    value = schedule(0 if step is None else step)
    _check_value(name, value)
    return value


def _share_done(step: int, steps: int, begin_step: int) -> float:
    return min(max((step - begin_step) / steps, 0.0), 1.0)


def _check_ramp(start: float, end: float, steps: int, begin_step: int) -> None:
    _check_value("start", start)
    _check_value("end", end)
    check_int("steps", steps, minimum=1, hint=_COUNTED)
    check_int("begin_step", begin_step, minimum=0, hint=_COUNTED)


def _check_value(name: str, value: float, *, positive: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}. Pass a float.")
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        rule = "finite and > 0" if positive else "finite and >= 0"
        raise ValueError(f"{name} must be {rule}, got {value!r}. Check the schedule at this step.")
