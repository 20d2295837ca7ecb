"""What one peer of one run leaves in numbers: rows of metrics, and a result."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codistill.lab import documents

METRICS = "metrics.jsonl"
RESULT = "result.json"


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
    # What follows is absent in rows that were written before it was recorded.
    teacher_losses: Mapping[str, float] = field(default_factory=dict)
    """Distillation loss of each teacher alone, unweighted, on the last batch."""
    agreements: Mapping[str, float] = field(default_factory=dict)
    """Share of the last batch's positions at which each teacher finds the same class likeliest."""
    teacher_ages: Mapping[str, float] = field(default_factory=dict)
    """Updates since the snapshot of each teacher was first seen."""
    seconds: float = math.nan
    """Time in the training loop so far, without evaluations."""
    stall_s: float = 0.0
    """Time spent in the exchange with other peers so far, as part of ``seconds``."""
    bytes_published: int = 0
    """Bytes written for, or sent to, the other peers so far."""
    bytes_fetched: int = 0
    """Bytes read, or received, from the other peers so far."""
    bytes_all_reduced: int = 0
    """Bytes this rank has sent so far to average gradients or weights."""


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
    advice: tuple[str, ...] = ()
    """What was said while training of settings that do not help."""
    validation_calibration_error: float | None = None
    """Expected calibration error on the validation set, at the end."""
    test_calibration_error: float | None = None
    """Expected calibration error on the test set; None if it was not read."""
    further: Mapping[str, float] = field(default_factory=dict)
    """What else the task scores on the test set, by name, such as "bleu"."""
    peak_memory_bytes: int | None = None
    """The most memory the process held, or its allocator on CUDA; None where the system does not tell."""


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
    return [_evaluation(line, f"{path}:{number}") for number, line in enumerate(_whole_lines(path), start=1)]


def load_last_evaluation(path: Path) -> Evaluation | None:
    """Return the last row that `load_evaluations` would, None if there is none; no other is looked at.

    Raises:
        OSError: If it cannot be read.
        ValueError: If the row is malformed; its line and field are named.
    """
    lines = _whole_lines(path)
    return _evaluation(lines[-1], f"{path}:{len(lines)}") if lines else None


def _whole_lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()


def _evaluation(line: str, where: str) -> Evaluation:
    try:
        document = json.loads(line)
    except ValueError as e:
        raise ValueError(f"{where} must hold JSON, and it does not: {e}.") from e
    return documents.from_document(Evaluation, document, where=where)


def append_evaluation(path: Path, row: Evaluation) -> None:
    """Add a row to ``metrics.jsonl``."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(documents.to_document(row), allow_nan=False) + "\n")


def save_evaluations(path: Path, rows: Sequence[Evaluation]) -> None:
    """Write ``metrics.jsonl`` anew."""
    lines = [json.dumps(documents.to_document(row), allow_nan=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
