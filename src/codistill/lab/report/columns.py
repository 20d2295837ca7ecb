"""The columns of the tables, the same wherever they are shown, and what they mean."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from codistill.lab.claims import METRICS, PAIRWISE
from codistill.lab.comparison import Comparison, Row
from codistill.lab.report.quantities import ABSENT, in_bytes, in_thousands, number, spread


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


_ACCURACY = Column(
    label="accuracy %",
    meaning="Right answers on the test set, of the first model (peer a): mean over seeds, and +- one "
    "standard deviation over seeds. The test set is read once, at the end.",
    cell=lambda row: spread(row.test_accuracy, row.test_accuracy_sd, 1, 100),
)
_PEERS_ACCURACY = Column(
    label="all peers",
    meaning="The same, mean over all models of the arm.",
    cell=lambda row: number(row.peers_test_accuracy, 1, 100),
)
_NLL = Column(
    label="NLL",
    meaning="Negative log-likelihood on the test set in nats, of the first model: mean and +- one "
    "standard deviation over seeds. Lower is better.",
    cell=lambda row: spread(row.test_nll, row.test_nll_sd, 3),
)
_PEERS_NLL = Column(
    label="all peers",
    meaning="The same, mean over all models of the arm.",
    cell=lambda row: number(row.peers_test_nll, 3),
)
_CHURN = Column(
    label="churn %",
    meaning="Share of the test set on which two retrainings with different seeds give different "
    "labels: mean over all pairs of seeds. Models that taught each other are never compared.",
    cell=lambda row: number(row.churn, 1, 100),
)
_DISTANCE = Column(
    label="distance",
    meaning="How far the weights of the first model moved from their initial values (L2 norm).",
    cell=lambda row: number(row.distance, 1),
)
_REST = (
    Column(
        label="bytes/step",
        meaning="Bytes an update that one model publishes and fetches, or that one rank sends to average "
        "gradients (it receives as many). Mean over the updates and the models.",
        cell=lambda row: in_bytes(row.exchanged_bytes),
    ),
    Column(
        label="taught %",
        meaning="Share of the updates that had a teacher, mean over all models of the arm. If it is below 50 "
        "for any model in any run, the arm is marked as not codistilled, and nothing is claimed of it.",
        cell=lambda row: number(row.teacher_share, 0, 100),
    ),
    Column(
        label="s",
        meaning="Seconds in the training loop without evaluations, of the slowest model. All "
        "models share the cores of one machine, so this says nothing about how the methods scale.",
        cell=lambda row: number(row.seconds, 1),
    ),
    Column(
        label="compute",
        meaning="Forward and backward passes relative to the first all_reduce arm, or to the first arm "
        "without teachers if there is none: (3 x samples + samples through teachers) / (3 x its samples), a "
        "forward counting 1 and a backward 2, over all models of the arm. Predictions of an ensemble later "
        "cost as many forwards as it has members.",
        cell=lambda row: number(row.compute, 2),
    ),
)

_MOST_FURTHER = 2
"""Further scores among the headlines: more would not fit a terminal."""


def headlines(comparison: Comparison) -> tuple[Column, ...]:
    """Return the columns after that of the arm, the task's metric first; they fit 100 columns of text."""
    names = _further_names(comparison)[:_MOST_FURTHER]
    further = [_further(name, has_spread=len(names) < _MOST_FURTHER) for name in names]
    # Each further score takes the place of what says least.
    if comparison.metric == "nll":
        return (_NLL, _PEERS_NLL, *further, *[_ACCURACY][len(names) :], _CHURN, *_distance(names[1:]), *_REST)
    return (
        _ACCURACY,
        _PEERS_ACCURACY,
        *further,
        *[_NLL][len(names[1:]) :],
        _CHURN,
        *_distance(names),
        *_REST,
    )


def details(comparison: Comparison) -> tuple[Column, ...]:
    """Return the columns of the second table: those of them that some arm has a number for."""
    shown = {(column.label, column.meaning) for column in headlines(comparison)}
    further = [_further(name) for name in _further_names(comparison)]
    found = [
        column
        for column in (_ACCURACY, _NLL, *further, *_DETAILS, _DISTANCE)
        if (column.label, column.meaning) not in shown
    ]
    return tuple(
        column for column in found if any(column.cell(row) not in (ABSENT, "") for row in comparison.rows)
    )


def _distance(in_its_place: Sequence[str]) -> list[Column]:
    return [] if in_its_place else [_DISTANCE]


def _further_names(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(name for row in comparison.rows for name in row.further))


def _further(name: str, *, has_spread: bool = True) -> Column:
    known = METRICS.get(f"test_{name}")
    spread_words = " and +- one standard deviation" if has_spread else ""
    return Column(
        label=name if known is None else known.label.removeprefix("test "),
        meaning=f"Score on the test set, of the first model: mean{spread_words} over seeds.",
        cell=partial(
            _further_cell, name=name, decimals=3 if known is None else known.decimals, has_spread=has_spread
        ),
    )


def _further_cell(row: Row, *, name: str, decimals: int, has_spread: bool) -> str:
    return spread(row.further.get(name), row.further_sd.get(name) if has_spread else None, decimals)


def _churn_interval(row: Row) -> str:
    if row.churn_low is None or row.churn_high is None:
        return ABSENT
    return f"{number(max(row.churn_low, 0.0), 1, 100)} to {number(row.churn_high, 1, 100)}"


_DETAILS = (
    Column(
        label="best model, %",
        meaning="Test accuracy of the model that did best on validation, chosen anew for every seed; never "
        "chosen by the test set.",
        cell=lambda row: number(row.best_peer_test_accuracy, 1, 100),
    ),
    Column(
        label="best model, NLL",
        meaning="Test NLL of that model.",
        cell=lambda row: number(row.best_peer_test_nll, 3),
    ),
    Column(
        label="ensemble, %",
        meaning="Test accuracy of the mean of the probabilities of all models of the arm. Of models that "
        "taught each other it is shown beside the others, as nothing to beat.",
        cell=lambda row: number(row.ensemble_test_accuracy, 1, 100),
    ),
    Column(
        label="ensemble, NLL",
        meaning="Test NLL of that mean.",
        cell=lambda row: number(row.ensemble_test_nll, 3),
    ),
    Column(
        label="calibration error %",
        meaning="Expected calibration error on the test set: how far the probability of the likeliest class "
        "is from how often it is right, over 15 bins.",
        cell=lambda row: number(row.test_calibration_error, 1, 100),
    ),
    Column(
        label="churn, 95%",
        meaning="Interval of the churn by jackknife over seeds, in per cent.",
        cell=_churn_interval,
    ),
    Column(
        label="difference %",
        meaning="Mean absolute difference between the probabilities of two retrainings with different seeds, "
        "over classes and pairs of seeds: churn that also sees what does not change a label.",
        cell=lambda row: number(row.difference, 2, 100),
    ),
    Column(
        label="agreement %",
        meaning="Share of the last batch on which model and teacher find the same class likeliest, at the "
        "end, mean over models and teachers.",
        cell=lambda row: number(row.agreement, 1, 100),
    ),
    Column(
        label="D",
        meaning="Distillation loss against a teacher on the last batch, unweighted, mean over models and "
        "teachers; each alone is in comparison.json.",
        cell=lambda row: number(row.teacher_loss, 3),
    ),
    Column(
        label="teacher age",
        meaning="Updates since the teachers' snapshots were first seen, at the end.",
        cell=lambda row: number(row.teacher_age, 0),
    ),
    Column(
        label="samples",
        meaning="Samples trained on, repeats included, over all models of the arm.",
        cell=lambda row: in_thousands(row.samples),
    ),
    Column(
        label="published/step",
        meaning="Bytes an update that one model writes for, or sends to, the others.",
        cell=lambda row: in_bytes(row.bytes_published),
    ),
    Column(
        label="fetched/step",
        meaning="Bytes an update that one model reads, or receives, from the others.",
        cell=lambda row: in_bytes(row.bytes_fetched),
    ),
    Column(
        label="all-reduced/step",
        meaning="Bytes an update that one rank sends to average gradients or weights.",
        cell=lambda row: in_bytes(row.bytes_all_reduced),
    ),
    Column(
        label="stall s",
        meaning="Seconds of the training loop spent in the exchange with other models, mean over models.",
        cell=lambda row: number(row.stall_s, 1),
    ),
    Column(
        label="memory",
        meaning="The most memory the process of a model held, or its allocator on CUDA; the largest of all.",
        cell=lambda row: in_bytes(row.peak_memory_bytes),
    ),
)


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


def _advice(row: Row) -> list[str]:
    if not row.advice:
        return []
    runs = row.models * row.seeds
    return [f"{row.arm}: advice given while training, to {row.advised} of {runs}: {' '.join(row.advice)}"]


def footnotes(comparison: Comparison) -> list[str]:
    """Return what a reader of the table and the verdicts has to know, a sentence or two each."""
    notes = ["All numbers are means over seeds, of the first model of an arm where nothing else is said."]
    joint = [row.arm for row in comparison.rows if row.is_ensemble]
    if joint:
        notes.append(f"Judged by the mean of the probabilities of all its models: {', '.join(joint)}.")
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
    notes += [note for row in comparison.rows for note in _advice(row)]
    notes += [
        f"{row.arm}: samples, seconds and compute include those of {row.earlier}, which is trained before."
        for row in comparison.rows
        if row.earlier is not None
    ]
    if comparison.verdicts:
        notes.append(
            "Verdicts: paired differences over seeds, two-sided 95% t interval, not corrected for the "
            f"number of comparisons ({len(comparison.verdicts)})."
        )
    if any(verdict.metric in PAIRWISE for verdict in comparison.verdicts):
        notes.append(
            "Pairs of retrainings that share a seed are not independent: the interval of a churn is over "
            "jackknife pseudo-values of the mean over pairs (Arvesen 1969), one a seed."
        )
    if any(verdict.expects is not None for verdict in comparison.verdicts):
        notes.append(
            "Expected ahead: holds if the interval lies above 0, where better is up, and does not hold here "
            "if it lies below the least effect that matters; behind is the same turned round. Expected "
            "parity: holds if the interval lies within the margin, and does not if it lies wholly outside. "
            "Anything else is too noisy to tell."
        )
    return notes
