"""What a model made of the test set, kept beside its result: for churn between retrainings, and ensembles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codistill.lab.evaluation import Scores

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

TARGETS = "test_targets.npy"
LABELS = "test_labels.npy"
OF_TARGETS = "test_target_scores.npy"
WHOLE = "test_scores.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptScores:
    """Predictions at every position of the test set that counts."""

    targets: Labels
    """Right answers, int64 [positions]."""
    labels: Labels
    """The likeliest class, int64 [positions]."""
    of_targets: Floats
    """Log-probability of the right class, float32 [positions]."""
    whole: Floats | None
    """Log-probabilities, float32 [positions, classes]; None where there are too many classes."""

    @classmethod
    def of(cls, scores: Scores) -> "KeptScores":
        """Return what is to be kept of scores."""
        whole = scores.log_probabilities
        return cls(
            targets=scores.targets.numpy(),
            labels=scores.labels.numpy(),
            of_targets=scores.target_log_probabilities.numpy(),
            whole=None if whole is None else whole.numpy(),
        )

    @classmethod
    def of_whole(cls, whole: Floats, targets: Labels) -> "KeptScores":
        """Return what all log-probabilities say.

        Args:
            whole: float32 [positions, classes].
            targets: int64 [positions].
        """
        return cls(
            targets=targets,
            labels=whole.argmax(axis=1),
            of_targets=whole[np.arange(len(targets)), targets],
            whole=whole,
        )

    def save(self, folder: Path) -> None:
        """Write them into a peer's folder."""
        np.save(folder / TARGETS, self.targets, allow_pickle=False)
        np.save(folder / LABELS, self.labels, allow_pickle=False)
        np.save(folder / OF_TARGETS, self.of_targets, allow_pickle=False)
        if self.whole is not None:
            np.save(folder / WHOLE, self.whole, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "KeptScores | None":
        """Return what `save` left in a folder; None if the test set was not read.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If a file does not hold what it should.
        """
        if not (folder / TARGETS).exists():
            return None
        whole = folder / WHOLE
        return cls(
            targets=_read(folder / TARGETS, np.dtype(np.int64), 1),
            labels=_read(folder / LABELS, np.dtype(np.int64), 1),
            of_targets=_read(folder / OF_TARGETS, np.dtype(np.float32), 1),
            whole=_read(whole, np.dtype(np.float32), 2) if whole.exists() else None,
        )

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(np.mean(self.labels == self.targets))

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood, in nats."""
        return -float(np.mean(self.of_targets.astype(np.float64)))


def ensemble(members: Sequence[KeptScores]) -> KeptScores | None:
    """Return the predictions of the mean of the members' probabilities.

    Where there are too many classes for all of them to be kept, labels are -1: only the NLL is known.

    Returns:
        None unless all members were scored on the same positions.
    """
    first = members[0]
    if not all(np.array_equal(one.targets, first.targets) for one in members):
        return None
    wholes = [one.whole for one in members if one.whole is not None]
    if len(wholes) == len(members):
        with np.errstate(divide="ignore"):
            whole = np.log(_mean_of_exp(wholes)).astype(np.float32)
        return KeptScores.of_whole(whole, first.targets)
    return KeptScores(
        targets=first.targets,
        labels=np.full_like(first.targets, -1),
        of_targets=np.log(_mean_of_exp([one.of_targets for one in members])).astype(np.float32),
        whole=None,
    )


def _mean_of_exp(logarithms: Sequence[Floats]) -> npt.NDArray[np.float64]:
    mean: npt.NDArray[np.float64] = np.mean([np.exp(one.astype(np.float64)) for one in logarithms], axis=0)
    return mean


def _read(path: Path, dtype: "np.dtype[Any]", dimensions: int) -> "npt.NDArray[Any]":
    array = np.load(path, allow_pickle=False)
    if array.ndim != dimensions or array.dtype != dtype:
        raise ValueError(
            f"{path} must hold {dtype} of {dimensions} dimensions, got {array.dtype} {list(array.shape)}."
        )
    return np.asarray(array)
