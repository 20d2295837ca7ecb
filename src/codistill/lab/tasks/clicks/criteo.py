"""Whether an advertisement is clicked: ``<data root>/criteo/train.txt``, or ``train.txt.gz``.

The format of Criteo's Display Advertising Challenge of 2014 (45,840,617 rows) and of the 1TB Click Logs: no
header, fields separated by tabs, the label (1 clicked), 13 integers, 26 categories of 8 hexadecimal digits;
an empty field is a missing value; rows in order of time. The first eight tenths train, the next validates,
the last is the test set. Of these two at most `MOST_VALIDATION` and `MOST_TEST` rows are read, evenly spaced
in time, so that scoring takes seconds: results are comparable with one another, not with published ones.

The rows are parsed once, in parts, into a file of the user's cache folder, 160 bytes a row, and are read from
there as they are asked for: neither file has to fit into memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from codistill.lab.tasks.cache import cached_arrays, digest_of
from codistill.lab.tasks.clicks.base import ClickTask
from codistill.lab.tasks.clicks.fields import Fields, find_table, read_blocks
from codistill.lab.tasks.clicks.hashed import buckets_of
from codistill.lab.tasks.clicks.mapped import Rows, mapped_rows
from codistill.lab.tasks.clicks.standardisation import Standardisation
from codistill.lab.tasks.clicks.table import parsed_columns
from codistill.lab.tasks.samples import Inputs, Samples

MOST_VALIDATION = 100_000
MOST_TEST = 500_000
NUMBERS = {f"I{number}": number for number in range(1, 14)}
"""Names, as the challenge has them, and columns."""
CATEGORIES = {f"C{number}": 13 + number for number in range(1, 27)}
_ROW = np.dtype(
    [("numbers", "<f4", (len(NUMBERS),)), ("hashes", "<u4", (len(CATEGORIES),)), ("target", "<u4")]
)
_CHUNK_ROWS = 100_000


class Criteo(ClickTask):
    """Advertisements in order of time, and whether they were clicked."""

    buckets = 1 << 15

    @classmethod
    @override
    def prepare(cls, data_root: Path) -> None:
        cls(data_root)

    @override
    def __init__(self, data_root: Path) -> None:
        path = find_table(
            Path(data_root) / "criteo",
            "train.txt",
            origin="Criteo's Display Advertising Challenge, https://ailab.criteo.com/ressources",
        )
        key = f"criteo-1-{digest_of(path)}"
        rows = mapped_rows(key, _ROW, lambda: read_rows(path))
        train, validation, self._test = np.split(rows, [len(rows) * 8 // 10, len(rows) * 9 // 10])
        learned = cached_arrays(f"{key}-statistics", lambda: _statistics(train))
        self._clicked = float(learned["clicked"])
        self._standardisation = Standardisation(
            mean=learned["mean"], deviation=learned["deviation"], has_missing=learned["has_missing"]
        )
        self.numbers = len(NUMBERS) + int(learned["has_missing"].sum())
        self.categories = len(CATEGORIES)
        self.train = self._samples(train)
        self.validation = self._samples(evenly_spaced(validation, most=MOST_VALIDATION))

    @override
    def test(self) -> Samples:
        return self._samples(evenly_spaced(self._test, most=MOST_TEST))

    @override
    def class_frequencies(self) -> Tensor:
        return torch.tensor([1 - self._clicked, self._clicked])

    def _samples(self, rows: Rows) -> Samples:
        return RowSamples(rows, standardisation=self._standardisation, buckets=self.buckets)


@final
class RowSamples(Samples):
    """Rows that become samples as they are asked for.

    Args:
        rows: As `read_rows` makes them.
        standardisation: How numbers become features.
        buckets: Of each column of categories.
    """

    def __init__(self, rows: Rows, *, standardisation: Standardisation, buckets: int) -> None:
        self._rows, self._standardisation, self._buckets = rows, standardisation, buckets

    @override
    def __len__(self) -> int:
        return len(self._rows)

    @override
    def batch(self, rows: Tensor) -> tuple[Inputs, Tensor]:
        chosen = self._rows[rows.cpu().numpy()]
        features = torch.from_numpy(self._standardisation.features(chosen["numbers"]))
        buckets = torch.from_numpy(buckets_of(chosen["hashes"], self._buckets))
        return (features, buckets), torch.from_numpy(chosen["target"].astype(np.int64))


def read_rows(path: Path) -> Iterator[Rows]:
    """Yield the rows of a file in Criteo's format, part by part.

    Args:
        path: The file; decompressed if its name ends in ``.gz``.

    Yields:
        Structures of ``numbers`` (float32 [13], NaN where missing), ``hashes`` (uint32 [26]) and ``target``.

    Raises:
        ValueError: If a line is not in this format.
    """
    lines = 0
    for block in read_blocks(path):
        fields = Fields(
            block,
            columns=1 + len(NUMBERS) + len(CATEGORIES),
            separator=b"\t",
            source=path,
            first_line=lines + 1,
        )
        rows = np.empty(len(fields), dtype=_ROW)
        columns = parsed_columns(fields, numbers=NUMBERS, categories=CATEGORIES, missing=b"")
        rows["numbers"], rows["hashes"] = columns["numbers"], columns["hashes"]
        rows["target"] = fields.choices(0, b"0", b"1")
        lines += len(fields)
        yield rows


def evenly_spaced(rows: Rows, *, most: int) -> Rows:
    """Return rows evenly spaced from the first on, at most ``most``, without copying any."""
    return rows[:: max(1, -(-len(rows) // most))]


def _statistics(train: Rows) -> "dict[str, np.ndarray]":
    parts = range(0, len(train), _CHUNK_ROWS)
    learned = Standardisation.fit(train["numbers"][start : start + _CHUNK_ROWS] for start in parts)
    return {
        "mean": learned.mean,
        "deviation": learned.deviation,
        "has_missing": learned.has_missing,
        "clicked": train["target"].mean(dtype=np.float64),
    }
