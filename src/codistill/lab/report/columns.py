"""The columns of the table, the same wherever it is shown, and what they mean."""

from collections.abc import Callable
from dataclasses import dataclass

from codistill.lab.comparison import Comparison, Row

ABSENT = "-"
"""Shown where a number does not apply or was not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the table of arms."""

    label: str
    """Its heading."""
    meaning: str
    """A sentence or two for readers who have not read the code."""
    cell: Callable[[Row], str]
    """What it shows of an arm."""


def label(row: Row) -> str:
    """Return the label of an arm, marked if it had hardly any teachers."""
    return f"{row.arm} (not codistilled)" if row.is_codistilled is False else row.arm


def _number(value: float | None, decimals: int, scale: float = 1.0) -> str:
    return ABSENT if value is None else f"{value * scale:.{decimals}f}"


def _spread(mean: float | None, sd: float | None, decimals: int, scale: float = 1.0) -> str:
    if mean is None or sd is None:
        return _number(mean, decimals, scale)
    return f"{_number(mean, decimals, scale)} +- {_number(sd, decimals, scale)}"


def _bytes(value: float | None) -> str:
    if value is None:
        return ABSENT
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


COLUMNS: tuple[Column, ...] = (
    Column(
        label="accuracy %",
        meaning="Right answers on the test set, of the first model (peer a): mean over seeds, and +- one "
        "standard deviation over seeds. The test set is read once, at the end.",
        cell=lambda row: _spread(row.test_accuracy, row.test_accuracy_sd, 1, 100),
    ),
    Column(
        label="all peers",
        meaning="The same, mean over all models of the arm.",
        cell=lambda row: _number(row.peers_test_accuracy, 1, 100),
    ),
    Column(
        label="NLL",
        meaning="Negative log-likelihood on the test set in nats, of the first model: mean and +- one "
        "standard deviation over seeds. Lower is better.",
        cell=lambda row: _spread(row.test_nll, row.test_nll_sd, 3),
    ),
    Column(
        label="churn %",
        meaning="Share of the test set on which two retrainings with different seeds give different "
        "labels: mean over all pairs of seeds. Models that taught each other are never compared.",
        cell=lambda row: _number(row.churn, 1, 100),
    ),
    Column(
        label="distance",
        meaning="How far the weights of the first model moved from their initial values (L2 norm).",
        cell=lambda row: _number(row.distance, 1),
    ),
    Column(
        label="bytes/step",
        meaning="Bytes an update that one model publishes and fetches, or that one rank sends to average "
        "gradients (it receives as many). Mean over the updates and the models.",
        cell=lambda row: _bytes(row.exchanged_bytes),
    ),
    Column(
        label="taught %",
        meaning="Share of the updates that had a teacher, mean over all models of the arm. If it is below 50 "
        "for any model in any run, the arm is marked as not codistilled, and nothing is claimed of it.",
        cell=lambda row: _number(row.teacher_share, 0, 100),
    ),
    Column(
        label="s",
        meaning="Seconds in the training loop without evaluations, of the slowest model. All "
        "models share the cores of one machine, so this says nothing about how the methods scale.",
        cell=lambda row: _number(row.seconds, 1),
    ),
    Column(
        label="compute",
        meaning="Forward and backward passes relative to the first all_reduce arm: (3 x samples + "
        "samples through teachers) / (3 x its samples), a forward counting 1 and a backward 2, over all "
        "models of the arm. Predictions of an ensemble later cost as many forwards as it has members.",
        cell=lambda row: _number(row.compute, 2),
    ),
)
"""The columns after that of the arm."""


def _what_befell(row: Row) -> list[str]:
    found = []
    if row.skipped_share:
        found.append(
            f"{100 * row.skipped_share:.1f}% of a peer's publishes were skipped, as the store was busy"
        )
    if row.quarantined_share:
        found.append(f"{100 * row.quarantined_share:.1f}% of the updates had a teacher in quarantine")
    if row.weight_factor is not None and row.weight_factor < 1.0:
        found.append(f"a distillation loss diverged, and its weight was multiplied by {row.weight_factor:g}")
    return [f"{row.arm}: {'; '.join(found)}."] if found else []


def footnotes(comparison: Comparison) -> list[str]:
    """Return what a reader of the table and the verdicts has to know, a sentence or two each."""
    notes = ["All numbers are means over seeds, of the first model of an arm where nothing else is said."]
    if any(row.is_codistilled is False for row in comparison.rows):
        notes.append(
            "Not codistilled: in at least one run a model had a teacher in fewer than half of its updates."
        )
    free = [row.arm for row in comparison.rows if row.is_lockstep is False]
    if free:
        notes.append(
            f"Running free ({', '.join(free)}): after the start, peers take the newest snapshots there are "
            "and wait for nobody, so two runs with one seed are not the same to the bit."
        )
    notes += [note for row in comparison.rows for note in _what_befell(row)]
    if comparison.verdicts:
        notes.append(
            "Verdicts: paired differences over seeds, two-sided 95% t interval, not corrected for the "
            f"number of comparisons ({len(comparison.verdicts)})."
        )
    if any(verdict.metric == "churn" for verdict in comparison.verdicts):
        notes.append(
            "Pairs of retrainings that share a seed are not independent: the interval of a churn is over "
            "jackknife pseudo-values of the mean over pairs (Arvesen 1969), one a seed."
        )
    return notes
