"""The outcome of an experiment: a row an arm and a verdict a claim, and their JSON document."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codistill.lab import documents
from codistill.lab.claims import Verdict

FORMAT = 1
KIND = "codistill comparison"
COMPARISON = "comparison.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One arm of the table; numbers are means over seeds, of peer ``a`` where nothing else is said."""

    arm: str
    """Label of the arm."""
    summary: str
    """What it shows."""
    models: int
    """Models that it trains."""
    seeds: int
    """Seeds that have finished."""
    test_accuracy: float | None
    """Share of right answers on the test set; None if it was not read."""
    test_accuracy_sd: float | None
    """Its standard deviation over seeds; None with one seed."""
    test_nll: float | None
    """Mean negative log-likelihood on the test set, in nats."""
    test_nll_sd: float | None
    """Its standard deviation over seeds."""
    peers_test_accuracy: float | None
    """Test accuracy, mean over all peers."""
    peers_test_nll: float | None
    """Test NLL, mean over all peers."""
    churn: float | None
    """Share of test samples on which two retrainings with different seeds give different labels, mean
    over pairs of seeds; never between peers that taught each other. None with one seed."""
    distance: float | None
    """Distance of the weights from their initial values (L2); None for an ensemble."""
    exchanged_bytes: float | None
    """Bytes an update that a peer publishes and fetches, or that a rank sends to average gradients."""
    teacher_share: float | None
    """Share of the updates that had a teacher, mean over peers; None without teachers."""
    is_codistilled: bool | None
    """Whether every model had a teacher in at least half of its updates; None without teachers."""
    seconds: float
    """Time in the training loop, of the slowest peer."""
    compute: float | None
    """Forward and backward passes relative to the first all_reduce arm: (3 samples + samples through
    teachers) / (3 samples of that arm), summed over peers. None if there is no such arm."""
    # What follows is absent in documents that were written before it was recorded.
    is_lockstep: bool | None = None
    """Whether peers waited for one another at every interval; None without teachers."""
    skipped_share: float | None = None
    """Share of the intervals at which nothing was published, the store being busy, mean over peers; None
    without teachers."""
    quarantined_share: float | None = None
    """Share of the updates with a teacher in quarantine, mean over peers; None without teachers."""
    weight_factor: float | None = None
    """What the weight of the distillation loss was lowered to because it diverged, the lowest of all peers;
    1 if it never did, None without teachers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The table of an experiment, and the verdict on each of its claims."""

    rows: tuple[Row, ...]
    """Arms in the order of the recipes, an ensemble after the arm it is made of."""
    verdicts: tuple[Verdict, ...]
    """Claims in the order of their declaration; those on arms that were not run are left out."""


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write a comparison as JSON, whole or not at all.

    Raises:
        OSError: If the file cannot be written.
    """
    documents.write_json(path, to_document(comparison))


def read_comparison(path: Path) -> Comparison:
    """Return the comparison that `write_comparison` wrote.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a comparison of this format; the bad field is named.
    """
    document = documents.read_json(path)
    if not isinstance(document, dict) or document.get("kind") != KIND or document.get("format") != FORMAT:
        raise ValueError(f"{path} must be a {KIND} of format {FORMAT}, and it is not.")
    for field in ("rows", "verdicts"):
        if not isinstance(document.get(field), list):
            raise ValueError(f"{path}: {field} must be a list, got {document.get(field)!r}.")
    return Comparison(
        rows=tuple(
            documents.from_document(Row, row, where=f"{path}: rows[{index}]")
            for index, row in enumerate(document["rows"])
        ),
        verdicts=tuple(
            documents.from_document(Verdict, verdict, where=f"{path}: verdicts[{index}]")
            for index, verdict in enumerate(document["verdicts"])
        ),
    )


def to_document(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON can hold it."""
    return {
        "format": FORMAT,
        "kind": KIND,
        "rows": [documents.to_document(row) for row in comparison.rows],
        "verdicts": [documents.to_document(verdict) for verdict in comparison.verdicts],
    }
