"""How learning rate and weight decay came about, in words and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codistill.lab import documents
from codistill.lab.recipe import Recipe
from codistill.lab.recipes import demo

SEARCH = "search.json"
"""Record of the search that went before a comparison, beside its results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How the settings of the arms were chosen."""

    says: str
    """A paragraph."""
    fields: tuple[str, ...] = ()
    """What was chosen, as headings."""
    rows: tuple[tuple[str, ...], ...] = ()
    """Arm, the value of each field, trials, and which of them lie at the edge of the grid."""


def tuning_of(folder: Path, arms: Sequence[Recipe]) -> Tuning | None:
    """Return how the settings of a results folder's arms were chosen; None if nothing is known of it.

    Raises:
        OSError: If the record of the search cannot be read.
        ValueError: If it is malformed; the field is named.
    """
    path = folder / SEARCH
    if path.exists():
        return _read(path, arms)
    says = describe_tuning(arms)
    return None if says is None else Tuning(says=says)


def describe_tuning(arms: Sequence[Recipe], grid: dict[str, Any] | None = None) -> str | None:
    """Return a paragraph on the search that chose the settings of the demo's arms, or None if none did.

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
        f"arm: learning rates {_tried(points, 'learning_rate')}, "
        f"weight decays {_tried(points, 'weight_decay')}, "
        f"{len(grid['seeds'])} seeds other than those above. Rule: {grid['rule']}. "
        f"{''.join(untuned)}Chosen at the edge of the grid: {', '.join(at_edge) or 'none'}. "
        f"The grid's whole result is in codistill/lab/recipes/{demo.GRID}."
    )


def _read(path: Path, arms: Sequence[Recipe]) -> Tuning:
    record = documents.read_json(path)
    if not isinstance(record, Mapping):
        raise ValueError(f"{path} must hold a JSON object, got {type(record).__name__}.")
    for field in ("seeds", "learning_rates", "weight_decays", "arms"):
        if not isinstance(record.get(field), list):
            raise ValueError(f"{path} must list {field}, got {record.get(field)!r}.")
    for entry in record["arms"]:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("chosen"), Mapping):
            raise ValueError(f"{path} must list arms, each with what was chosen, got {entry!r}.")
    entries = record["arms"]
    settings = Recipe.__dataclass_fields__
    fields = tuple(dict.fromkeys(name for entry in entries for name in entry["chosen"] if name in settings))
    at_edge = [str(entry.get("arm")) for entry in entries if entry.get("at_edge")]
    untuned = sorted({arm.label for arm in arms} - {entry.get("arm") for entry in entries})
    not_tuned = f" Not tuned themselves: {', '.join(untuned)}." if untuned else ""
    seeds = len(record["seeds"])
    return Tuning(
        says=(
            "Learning rate and weight decay were chosen on the validation set by one search, the same for "
            f"every arm: learning rates {_values(record['learning_rates'])}; weight decays "
            f"{_values(record['weight_decays'])}; {seeds} seed{'' if seeds == 1 else 's'}. "
            f"Rule: {record.get('rule')}.{not_tuned} "
            f"Chosen at the edge of the grid: {', '.join(at_edge) or 'none'}."
        ),
        fields=tuple(field.replace("_", " ") for field in fields),
        rows=tuple(
            (
                str(entry.get("arm")),
                *(_plain(entry["chosen"].get(field, "-")) for field in fields),
                str(entry.get("trials", "-")),
                ", ".join(str(field).replace("_", " ") for field in entry.get("at_edge") or ()) or "-",
            )
            for entry in entries
        ),
    )


def _tried(points: Sequence[Mapping[str, Any]], field: str) -> str:
    return _values(sorted({point[field] for point in points}))


def _values(values: Sequence[object]) -> str:
    return ", ".join(map(_plain, values))


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
