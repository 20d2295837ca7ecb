"""The outcome of an experiment: a row an arm and a verdict a claim, and their JSON document."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
    """Forward and backward passes relative to the first all_reduce arm, or to the first arm without teachers
    if there is none: (3 samples + samples through teachers) / (3 samples of that arm), summed over peers.
    None if there is no such arm, or what it was trained after is not there."""
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
    advised: int = 0
    """Models, of all seeds, that were told while training of a setting that does not help."""
    advice: tuple[str, ...] = ()
    """What the first of them was told."""
    best_peer_test_accuracy: float | None = None
    """Test accuracy of the peer that did best on validation by the task's metric, seed by seed."""
    best_peer_test_nll: float | None = None
    """Test NLL of that peer."""
    ensemble_test_accuracy: float | None = None
    """Test accuracy of the mean of the probabilities of all models of the arm; None with one model."""
    ensemble_test_nll: float | None = None
    """Test NLL of that mean."""
    test_calibration_error: float | None = None
    """Expected calibration error on the test set."""
    further: Mapping[str, float] = field(default_factory=dict)
    """What else the task scores on the test set, by name, such as "bleu"."""
    further_sd: Mapping[str, float] = field(default_factory=dict)
    """Their standard deviations over seeds; absent with one seed."""
    churn_low: float | None = None
    """Lower end of the 95% interval of ``churn``, by jackknife over seeds; None with fewer than 3."""
    churn_high: float | None = None
    """Upper end of that interval."""
    difference: float | None = None
    """Mean absolute difference of probabilities between two retrainings with different seeds, mean over pairs
    of seeds, like ``churn``. None with one seed, or too many classes to keep all probabilities."""
    agreement: float | None = None
    """Share of the last batch on which model and teacher found the same class likeliest, at the end; mean
    over models and teachers."""
    agreements: Mapping[str, float] = field(default_factory=dict)
    """The same by teacher:student."""
    teacher_loss: float | None = None
    """Distillation loss of a teacher alone, unweighted, on the last batch; mean over models and teachers."""
    teacher_losses: Mapping[str, float] = field(default_factory=dict)
    """The same by teacher:student."""
    teacher_age: float | None = None
    """Updates since the teachers' snapshots were first seen, at the end; mean over models and teachers."""
    samples: float | None = None
    """Samples trained on, over all models, repeats included; None if what it was trained after is not
    there."""
    bytes_published: float | None = None
    """Bytes an update that a peer writes for, or sends to, the others; mean over peers."""
    bytes_fetched: float | None = None
    """Bytes an update that a peer reads, or receives, from the others; mean over peers."""
    bytes_all_reduced: float | None = None
    """Bytes an update that a rank sends to average gradients or weights; mean over peers."""
    stall_s: float | None = None
    """Seconds in the exchange with other peers, as part of the time in the training loop; mean over peers."""
    peak_memory_bytes: float | None = None
    """The most memory that the process of a peer held, or its allocator on CUDA; the largest of all peers."""
    is_ensemble: bool = False
    """Whether it is judged by the mean of the probabilities of all its models, in place of the first one."""
    earlier: str | None = None
    """Arm that had to be trained before, whose samples, seconds and compute are counted in with these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The table of an experiment, and the verdict on each of its claims."""

    rows: tuple[Row, ...]
    """Arms in the order of the recipes, an ensemble after the arm it is made of."""
    verdicts: tuple[Verdict, ...]
    """Claims in the order of their declaration; those on arms that were not run are left out."""
    metric: Literal["accuracy", "nll"] = "accuracy"
    """What the task is judged by."""


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
    return from_document(documents.read_json(path), where=str(path))


def from_document(document: Any, *, where: str) -> Comparison:
    """Return the comparison that `to_document` wrote.

    Args:
        document: Parsed JSON.
        where: File it was read from, for messages.

    Raises:
        ValueError: If it is not a comparison of this format; the bad field is named.
    """
    if not isinstance(document, dict) or document.get("kind") != KIND or document.get("format") != FORMAT:
        raise ValueError(f"{where} must be a {KIND} of format {FORMAT}, and it is not.")
    for name in ("rows", "verdicts"):
        if not isinstance(document.get(name), list):
            raise ValueError(f"{where}: {name} must be a list, got {document.get(name)!r}.")
    # Absent in documents that were written before tasks had another than accuracy.
    metric = document.get("metric", "accuracy")
    if metric not in ("accuracy", "nll"):
        raise ValueError(f"{where}: metric must be accuracy or nll, got {metric!r}.")
    return Comparison(
        rows=tuple(
            documents.from_document(Row, row, where=f"{where}: rows[{index}]")
            for index, row in enumerate(document["rows"])
        ),
        verdicts=tuple(
            documents.from_document(Verdict, verdict, where=f"{where}: verdicts[{index}]")
            for index, verdict in enumerate(document["verdicts"])
        ),
        metric=metric,
    )


def to_document(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON can hold it."""
    return {
        "format": FORMAT,
        "kind": KIND,
        "metric": comparison.metric,
        "rows": [documents.to_document(row) for row in comparison.rows],
        "verdicts": [documents.to_document(verdict) for verdict in comparison.verdicts],
    }
