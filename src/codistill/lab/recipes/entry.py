"""What a recipe of a paper reproduces, and where it is not what the paper did."""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from codistill.lab.recipe import Recipe

Scale: TypeAlias = Literal["lab", "paper"]
"""Minutes on two cores, or what the paper trained."""
Value: TypeAlias = str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One thing that an experiment varies."""

    field: str
    """The field of the recipe."""
    values: tuple[Value, ...]
    """What it is set to in turn."""
    along: Mapping[str, tuple[Value, ...]] = dataclasses.field(default_factory=dict)
    """Fields that change with it, with a value for each of its values."""

    def changes(self) -> tuple[dict[str, Value], ...]:
        """Return what is set at each value, field by field."""
        others = self.along.items()
        return tuple(
            {self.field: value, **{name: values[number] for name, values in others}}
            for number, value in enumerate(self.values)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A recipe with its source.

    Example:
        >>> from codistill.lab.recipes import entry
        >>> entry("sodhani2020-s12-lab").points()[0].arm
        'interval_steps-400'
    """

    recipe: Recipe
    """What is trained."""
    paper: str
    """Authors, year and number of the paper; empty if it follows none."""
    place: str
    """Where in the paper it stands."""
    rows: tuple[str, ...]
    """Numbers of the experiments: A for Anil et al., S for Sodhani et al., D for Zhang et al., SC20."""
    scale: Scale
    """How large it is."""
    reproduces: str
    """What the paper says came out, or what it is for."""
    deviations: tuple[str, ...] = ()
    """Where it differs from what the paper did."""
    unverified: tuple[str, ...] = ()
    """Settings that are said to be the paper's, and could not be checked."""
    ours: tuple[str, ...] = ()
    """Settings that the paper leaves open, or that could not be found."""
    sweep: tuple[Sweep, ...] = ()
    """What is varied from the recipe, which is one point of it or close to one."""

    def points(self) -> tuple[Recipe, ...]:
        """Return the recipe at every combination of what is swept, each as an arm; none without a sweep."""
        if not self.sweep:
            return ()
        points = []
        for combination in itertools.product(*(one.changes() for one in self.sweep)):
            chosen = [
                f"{one.field}-{changes[one.field]}"
                for one, changes in zip(self.sweep, combination, strict=True)
            ]
            changed: dict[str, Any] = {
                name: value for changes in combination for name, value in changes.items()
            }
            points.append(replace(self.recipe, arm="_".join(chosen), **changed))
        return tuple(points)

    def lines(self) -> tuple[str, ...]:
        """Return in plain words what it reproduces, and how it deviates."""
        source = "Of no paper" if not self.paper else f"From {self.paper}, {self.place}"
        numbers = f" ({', '.join(self.rows)})" if self.rows else ""
        return (
            f"{source}{numbers}, at {'the scale of a laptop' if self.scale == 'lab' else 'full scale'}.",
            f"To see: {self.reproduces}",
            *(f"Deviates: {text}" for text in self.deviations),
            *(f"Unverified: {text}" for text in self.unverified),
            *(f"Ours: {text}" for text in self.ours),
            *(f"Sweep: {_described(one)}" for one in self.sweep),
        )


def _described(sweep: Sweep) -> str:
    described = f"{sweep.field} {', '.join(map(str, sweep.values))}"
    others = [f"{name} {', '.join(map(str, values))}" for name, values in sweep.along.items()]
    return f"{'; with it '.join([described, *others])}."
