"""What the arms of a comparison have in common, and what they have not."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from codistill.lab import documents
from codistill.lab.comparison import Comparison, Row
from codistill.lab.recipe import Recipe
from codistill.lab.report.quantities import in_bytes, in_thousands, number

BUDGET = "budget.json"
"""What the arms were given the same of, beside the results of a comparison that fixed it."""


def describe_budget(folder: Path, arms: Sequence[Recipe], comparison: Comparison) -> str:
    """Return a paragraph on what the arms were given the same of.

    What the comparison itself wrote, where it fixed something; else what their recipes and results say.

    Raises:
        OSError: If the record cannot be read.
        ValueError: If it is malformed.
    """
    path = folder / BUDGET
    if path.exists():
        budget = documents.read_json(path)
        if not isinstance(budget, Mapping) or not isinstance(budget.get("says"), str):
            raise ValueError(f"{path} must say what the budget is in 'says', and it does not.")
        return str(budget["says"])
    updates = sorted({arm.updates for arm in arms})
    if len(updates) == 1:
        same = f"Every model makes {updates[0]:,} updates."
    else:
        same = f"Models make from {updates[0]:,} to {updates[-1]:,} updates."
    differing = [
        words
        for words in (
            _range(comparison.rows, "compute", lambda row: row.compute, lambda value: number(value, 2)),
            _range(comparison.rows, "bytes an update", lambda row: row.exchanged_bytes, in_bytes),
            _range(comparison.rows, "samples over all models", lambda row: row.samples, in_thousands),
        )
        if words
    ]
    return f"{same} Not equal between arms: {'; '.join(differing)}." if differing else same


def _range(
    rows: Sequence[Row], name: str, value: Callable[[Row], float | None], shown: Callable[[float], str]
) -> str:
    """Return between which arms a number differs; empty if it does not."""
    found = [(cost, row.arm) for row in rows if (cost := value(row)) is not None]
    if not found:
        return ""
    (least, cheapest), (most, dearest) = min(found), max(found)
    if shown(least) == shown(most):
        return ""
    return f"{name}, from {shown(least)} ({cheapest}) to {shown(most)} ({dearest})"
