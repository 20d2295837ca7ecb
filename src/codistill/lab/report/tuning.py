"""How learning rate and weight decay came about, in words."""

from collections.abc import Sequence
from typing import Any

from codistill.lab.recipe import Recipe
from codistill.lab.recipes import demo


def describe_tuning(arms: Sequence[Recipe], grid: dict[str, Any] | None = None) -> str | None:
    """Return a paragraph on the search that chose the settings of these arms, or None if none did.

    Args:
        arms: The arms of a run.
        grid: The record of the search; that of the demo if not given.
    """
    if any(arm.name != demo.ARMS[0].name for arm in arms):
        return None
    grid = demo.grid() if grid is None else grid
    for arm in arms:
        settings = {"learning_rate": arm.learning_rate, "weight_decay": arm.weight_decay}
        if demo.chosen(arm.label, grid) != settings:
            return None
    points = grid["arms"][0]["points"]
    untuned = [
        f"{arm.label} has the settings of {demo.SETTINGS_OF[arm.label]}; it was not tuned itself. "
        for arm in arms
        if arm.label in demo.SETTINGS_OF
    ]
    at_edge = [entry["arm"] for entry in grid["arms"] if entry["at_edge"]]
    return (
        "Learning rate and weight decay were chosen by one grid on the validation set, the same for every "
        f"arm: learning rates {_values(points, 'learning_rate')}, "
        f"weight decays {_values(points, 'weight_decay')}, "
        f"{len(grid['seeds'])} seeds other than those above. Rule: {grid['rule']}. "
        f"{''.join(untuned)}Chosen at the edge of the grid: {', '.join(at_edge) or 'none'}. "
        f"The grid's whole result is in codistill/lab/recipes/{demo.GRID}."
    )


def _values(points: Sequence[dict[str, Any]], field: str) -> str:
    return ", ".join(f"{value:g}" for value in sorted({point[field] for point in points}))
