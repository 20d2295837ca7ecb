"""What one peer of one run leaves: rows of metrics, a result, scores and right answers on the test set."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codistill.lab import documents

METRICS = "metrics.jsonl"
RESULT = "result.json"
TEST_SCORES = "test_scores.npy"
TEST_TARGETS = "test_targets.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One row of ``metrics.jsonl``: where a peer stands after ``step`` updates."""

    step: int
    """Updates so far."""
    samples: int
    """Samples this peer has trained on so far, repeats included."""
    train_loss: float
    """Mean task loss since the row before."""
    distillation_loss: float | None
    """Mean unweighted distillation loss since the row before, over the updates that had a teacher;
    None if there were none."""
    validation_accuracy: float
    """Share of right answers on the validation set."""
    validation_nll: float
    """Mean negative log-likelihood on the validation set, in nats."""
    distance: float
    """Distance of the weights from their initial values (L2 over all parameters)."""
    learning_rate: float
    """Learning rate of the update just made."""
    weight_decay: float
    """Weight decay of the update just made."""
    teacher_share: float | None
    """Share of the updates so far that had a teacher; None for a model that is to have none."""
    quarantined: tuple[str, ...] = ()
    """Teachers that are in quarantine after this update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerResult:
    """What came of one peer, and what it cost."""

    arm: str
    """Label of the recipe."""
    peer: str
    """Name of the peer."""
    seed: int
    """Seed of the recipe."""
    updates: int
    """Optimizer steps made."""
    samples: int
    """Samples trained on, repeats included, over all ranks of the peer."""
    parameters: int
    """Trained numbers of the model."""
    validation_accuracy: float
    """Share of right answers on the validation set, at the end."""
    validation_nll: float
    """Mean negative log-likelihood on the validation set, in nats, at the end."""
    test_accuracy: float | None
    """Share of right answers on the test set; None if it was not read, as in a search."""
    test_nll: float | None
    """Mean negative log-likelihood on the test set, in nats; None if it was not read."""
    distance: float
    """Distance of the weights from their initial values (L2 over all parameters)."""
    seconds: float
    """Time in the training loop, without evaluations."""
    stall_s: float
    """Time spent in the exchange with other peers, as part of ``seconds``."""
    bytes_published: int
    """Bytes of weights written for the other peers."""
    bytes_fetched: int
    """Bytes of weights read from the other peers."""
    bytes_all_reduced: int
    """Bytes each rank sends to average gradients, as a ring all-reduce sends them."""
    teacher_share: float | None
    """Share of the updates that had a teacher; None for a model that is to have none."""
    teacher_samples: int
    """Samples that went through teachers, once for each teacher."""
    # What follows is absent in results that were written before it was recorded.
    publishes_skipped: int = 0
    """Intervals at which nothing was published because the store was busy."""
    weight_factor: float = 1.0
    """What the weight of the distillation loss was lowered to because it diverged; 1 if it did not."""
    quarantined: tuple[str, ...] = ()
    """Teachers that were in quarantine at the end."""
    quarantined_updates: int = 0
    """Updates after which a teacher was in quarantine."""
    first_quarantine: int | None = None
    """The first of these updates; None if there was none."""


def load_result(path: Path) -> PeerResult:
    """Return what ``result.json`` holds.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not a result; the bad field is named.
    """
    return documents.from_document(PeerResult, documents.read_json(path), where=str(path))


def save_result(path: Path, result: PeerResult) -> None:
    """Write ``result.json``, whole or not at all."""
    documents.write_json(path, documents.to_document(result))


def load_evaluations(path: Path) -> list[Evaluation]:
    """Return the rows of ``metrics.jsonl``; a last line that is being written is left out.

    Raises:
        OSError: If it cannot be read.
        ValueError: If a row is malformed; its line and field are named.
    """
    text = path.read_text(encoding="utf-8")
    rows = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        where = f"{path}:{number}"
        try:
            document = json.loads(line)
        except ValueError as e:
            raise ValueError(f"{where} must hold JSON, and it does not: {e}.") from e
        rows.append(documents.from_document(Evaluation, document, where=where))
    return rows


def append_evaluation(path: Path, row: Evaluation) -> None:
    """Add a row to ``metrics.jsonl``."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(documents.to_document(row), allow_nan=False) + "\n")


def save_evaluations(path: Path, rows: Sequence[Evaluation]) -> None:
    """Write ``metrics.jsonl`` anew."""
    lines = [json.dumps(documents.to_document(row), allow_nan=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def load_test_scores(path: Path) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Return the log-probabilities on the test set, [samples, classes], float32.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it does not hold that.
    """
    scores = np.load(path, allow_pickle=False)
    if scores.ndim != 2 or scores.dtype != np.float32:
        raise ValueError(
            f"{path} must hold float32 [samples, classes], got {scores.dtype} {list(scores.shape)}."
        )
    return np.asarray(scores)


def load_test_targets(path: Path) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return the right classes of the test set, [samples], int64.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it does not hold that.
    """
    targets = np.load(path, allow_pickle=False)
    if targets.ndim != 1 or targets.dtype != np.int64:
        raise ValueError(f"{path} must hold int64 [samples], got {targets.dtype} {list(targets.shape)}.")
    return np.asarray(targets)
