"""Numbers made fit for a network: logarithms of mean 0 and deviation 1, and where one was missing."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standardisation:
    """How columns of numbers are scaled, as learned from the training rows.

    Each number becomes ``sign(x) log(1 + |x|)``, minus the column's mean, divided by its deviation; a
    missing one becomes 0, the mean.
    """

    mean: npt.NDArray[np.float64]
    """Of the logarithms that are not missing, [columns]."""
    deviation: npt.NDArray[np.float64]
    """Their standard deviation; 1 for a column that never changes."""
    has_missing: npt.NDArray[np.bool_]
    """Which columns lack numbers in training; each of them has an indicator among the features."""

    @classmethod
    def fit(cls, chunks: Iterable[Floats]) -> "Standardisation":
        """Learn it from training rows.

        Args:
            chunks: Parts of the rows, each [rows, columns], NaN where a number is missing; at least one.
        """
        rows = 0
        sums: npt.NDArray[np.float64] | None = None
        for chunk in chunks:
            is_known = ~np.isnan(chunk)
            values = np.where(is_known, _signed_logarithm(chunk.astype(np.float64)), 0.0)
            part = np.stack([is_known.sum(axis=0), values.sum(axis=0), (values**2).sum(axis=0)])
            sums = part if sums is None else sums + part
            rows += len(chunk)
        assert sums is not None
        count = np.maximum(sums[0], 1)
        mean = sums[1] / count
        variance = sums[2] / count - mean**2
        # A difference of two sums, rounded: what is left of a column that never changes is not its variance.
        changes = variance > 1e-9 * (1 + mean**2)
        deviation = np.sqrt(np.where(changes, variance, 1.0))
        return cls(mean=mean, deviation=deviation, has_missing=sums[0] < rows)

    def features(self, numbers: Floats) -> Floats:
        """Return the features of some rows, float32 [rows, columns + columns that lack numbers].

        Args:
            numbers: As stored, [rows, columns], NaN where one is missing.
        """
        is_missing = np.isnan(numbers)
        scaled = (_signed_logarithm(numbers) - self.mean) / self.deviation
        scaled[is_missing] = 0.0
        return np.concatenate([scaled, is_missing[:, self.has_missing]], axis=1, dtype=np.float32)


def _signed_logarithm(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    logarithm: npt.NDArray[np.floating] = np.copysign(np.log1p(np.abs(values)), values)
    return logarithm
