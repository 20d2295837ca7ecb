"""A table that lies whole in memory: numbers, hashed categories and targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch

from codistill.lab.tasks.clicks.fields import Fields, Numbers
from codistill.lab.tasks.clicks.hashed import Hashes, buckets_of, hashes
from codistill.lab.tasks.clicks.standardisation import Standardisation
from codistill.lab.tasks.samples import Split


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """What is known of each row, before anything is learned from the training rows."""

    numbers: Numbers
    """As they are written, NaN where one is missing, float32 [rows, columns]."""
    hashes: Hashes
    """Of the categories, uint32 [rows, columns]."""
    targets: npt.NDArray[np.int64]
    """0 or 1, int64 [rows]."""

    def split(
        self, rows: npt.NDArray[np.integer], *, standardisation: Standardisation, buckets: int
    ) -> Split:
        """Return some rows as samples, ``(features, buckets)`` and targets.

        Args:
            rows: Their numbers, [samples].
            standardisation: How numbers become features.
            buckets: Of each column.
        """
        return Split(
            inputs=(
                torch.from_numpy(standardisation.features(self.numbers[rows])),
                torch.from_numpy(buckets_of(self.hashes[rows], buckets)),
            ),
            targets=torch.from_numpy(self.targets[rows]),
        )


def parsed_columns(
    fields: Fields, *, numbers: Mapping[str, int], categories: Mapping[str, int], missing: bytes
) -> dict[str, npt.NDArray[Any]]:
    """Return the ``numbers`` and ``hashes`` of a `Table`.

    Args:
        fields: The lines.
        numbers: Name -> index of the columns of numbers.
        categories: Name -> index of the columns of categories.
        missing: What stands where a number is missing.
    """
    return {
        "numbers": np.stack([fields.numbers(i, missing=missing) for i in numbers.values()], axis=1),
        "hashes": np.stack([hashes(fields.column(i), column=name) for name, i in categories.items()], axis=1),
    }
