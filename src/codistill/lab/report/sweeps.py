"""Sweeps: arms of one method that differ in one setting, and what it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codistill.extras import require
from codistill.lab import methods, recipe
from codistill.lab.recipe import Recipe
from codistill.lab.report import drawing

FIELDS: Mapping[str, str] = {
    "interval_steps": "updates between two exchanges",
    "distillation_weight": "weight of the distillation loss",
    "data_fraction": "share of the training data",
    "batch_size": "samples an update",
}
"""Fields of a recipe that are swept, and what they are called."""

_IGNORED = ("name", "arm", "summary", "seed", "learning_rate", "weight_decay")
"""Fields in which the arms of a sweep may differ: names, and what is tuned for each arm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The arms of one method along a setting."""

    label: str
    """The method, and what tells it from other lines of that method."""
    values: tuple[float, ...]
    """The setting of each arm, rising."""
    arms: tuple[str, ...]
    """Their labels."""


def find_sweeps(arms: Sequence[Recipe]) -> dict[str, list[Line]]:
    """Return the lines of every field that some method was swept over.

    Args:
        arms: The arms of a run.
    """
    found = {field: _lines(arms, field) for field in FIELDS}
    return {field: lines for field, lines in found.items() if lines}


def draw(
    lines: Sequence[Line],
    *,
    field: str,
    quantity: str,
    values: Mapping[str, tuple[float, float | None]],
    level: tuple[str, float] | None = None,
) -> str:
    """Return a sweep as an ``<svg>`` element: a line a method, with 95% intervals over seeds.

    Args:
        lines: Of one field, from `find_sweeps`.
        field: Its name.
        quantity: Label of the vertical axis.
        values: What each arm reaches, in the unit of the axis, and half the width of its interval, by label.
        level: Label and value of an arm that has no such setting, to compare with.

    Raises:
        ExtraMissingError: If matplotlib is not installed.
    """
    figure, axes = drawing.new_axes(legend=[*(line.label for line in lines), *(level or ())[:1]])
    for index, line in enumerate(lines):
        reached = [values[arm] for arm in line.arms]
        axes.errorbar(
            line.values,
            [mean for mean, _ in reached],
            yerr=[reach or 0.0 for _, reach in reached],
            color=drawing.colour(index),
            linestyle=drawing.dashes(index),
            marker=drawing.marker(index),
            markersize=5,
            capsize=2.5,
            linewidth=1.5,
            elinewidth=1.1,
            label=line.label,
        )
    if level is not None:
        axes.axhline(level[1], color=drawing.GREY, linewidth=1.0, linestyle=(0, (1, 2)), label=level[0])
    _mark_values(axes, sorted({value for line in lines for value in line.values}))
    axes.set_xlabel(FIELDS[field])
    axes.set_ylabel(quantity)
    drawing.add_grid(axes, along="y")
    drawing.add_legend(figure)
    return drawing.as_svg(figure, salt=f"{quantity} against {field}")


def _lines(arms: Sequence[Recipe], field: str) -> list[Line]:
    groups: dict[tuple[Any, ...], dict[float, Recipe]] = {}
    for arm in arms:
        if field == "interval_steps" and not methods.method(arm.method).has_interval:
            continue
        key = tuple(
            repr(value)
            for name, value in recipe.to_document(arm).items()
            if name != field and name not in _IGNORED
        )
        groups.setdefault(key, {}).setdefault(float(getattr(arm, field)), arm)
    swept = [group for group in groups.values() if len(group) > 1]
    firsts = [next(iter(group.values())) for group in swept]
    return [
        Line(
            label=_label(first, firsts, field),
            values=tuple(sorted(group)),
            arms=tuple(group[value].label for value in sorted(group)),
        )
        for first, group in zip(firsts, swept, strict=True)
    ]


def _label(arm: Recipe, others: Sequence[Recipe], field: str) -> str:
    """Return the method, and the fields in which this line differs from others of the method."""
    alike = [recipe.to_document(other) for other in others if other.method == arm.method]
    differing = [
        f"{name} {value}"
        for name, value in recipe.to_document(arm).items()
        if name not in (*_IGNORED, field) and any(other[name] != value for other in alike)
    ]
    return ", ".join([arm.method, *differing])


def _mark_values(axes: Any, values: Sequence[float]) -> None:
    """Mark the values that were tried, on a logarithmic axis where they span a wide range."""
    ticker: Any = require("matplotlib.ticker", "lab")
    if values[0] > 0 and values[-1] >= 8 * values[0]:
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
