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
    entries = {entry["arm"]: entry for entry in grid["arms"]}
    for arm in arms:
        chosen = entries.get(arm.label, {}).get("chosen", {})
        if (arm.learning_rate, arm.weight_decay) != (chosen.get("learning_rate"), chosen.get("weight_decay")):
            return None
    points = entries[arms[0].label]["points"]
    at_edge = [label for label, entry in entries.items() if entry["at_edge"]]
    return (
        "Learning rate and weight decay of every arm were chosen by one grid on the validation set: learning "
        f"rates {_values(points, 'learning_rate')}, weight decays {_values(points, 'weight_decay')}, "
        f"{len(grid['seeds'])} seeds other than those above. Rule: {grid['rule']}. "
        f"Chosen at the edge of the grid: {', '.join(at_edge) or 'none'}. "
        f"The grid's whole result is in codistill/lab/recipes/{demo.GRID}."
    )


def _values(points: Sequence[dict[str, Any]], field: str) -> str:
    return ", ".join(f"{value:g}" for value in sorted({point[field] for point in points}))
