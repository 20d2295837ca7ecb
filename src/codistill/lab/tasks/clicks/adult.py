"""Whether somebody earns more than 50,000 dollars: ``<data root>/adult/adult.{data,test}.gz``.

Adult, or Census Income (UCI, Becker and Kohavi 1996). Six columns are numbers, eight are categories, "?"
among their values. A seeded tenth of the 32,561 rows of ``adult.data`` validates, the others train;
``adult.test``, 16,281 rows, is the test set.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from codistill.lab.tasks.cache import cached_arrays, digest_of
from codistill.lab.tasks.clicks.base import ClickTask
from codistill.lab.tasks.clicks.fields import Fields, find_table, read_text
from codistill.lab.tasks.clicks.standardisation import Standardisation
from codistill.lab.tasks.clicks.table import Table, parsed_columns
from codistill.lab.tasks.samples import Split

SEED = 20
"""Of the split."""
NUMBERS = {
    "age": 0,
    "fnlwgt": 2,
    "education-num": 4,
    "capital-gain": 10,
    "capital-loss": 11,
    "hours-per-week": 12,
}
CATEGORIES = {
    "workclass": 1,
    "education": 3,
    "marital-status": 5,
    "occupation": 6,
    "relationship": 7,
    "race": 8,
    "sex": 9,
    "native-country": 13,
}
LABEL = 14
_LABELS = (b"<=50K", b">50K", b"<=50K.", b">50K.")
"""In turn of classes 0 and 1; with a full stop in the test file."""


class Adult(ClickTask):
    """Answers to a census, and whether the income is above 50,000 dollars."""

    @classmethod
    @override
    def prepare(cls, data_root: Path) -> None:
        for name in ("adult.data", "adult.test"):
            _table(data_root, name)

    @override
    def __init__(self, data_root: Path) -> None:
        self._data_root = Path(data_root)
        table = _table(self._data_root, "adult.data")
        # The old generator: NumPy has promised that its numbers will never change.
        order = np.random.RandomState(SEED).permutation(len(table.targets))
        validation, train = np.split(order, [len(order) // 10])
        self._standardisation = Standardisation.fit([table.numbers[train]])
        self.train = self._split(table, train)
        self.validation = self._split(table, validation)
        self.numbers, self.categories = (part.shape[1] for part in self.train.inputs)

    @override
    def test(self) -> Split:
        table = _table(self._data_root, "adult.test")
        return self._split(table, np.arange(len(table.targets)))

    def _split(self, table: Table, rows: npt.NDArray[np.int64]) -> Split:
        return table.split(rows, standardisation=self._standardisation, buckets=self.buckets)


def _table(data_root: Path, name: str) -> Table:
    path = find_table(
        Path(data_root) / "adult", name, origin="the UCI Machine Learning Repository, data set 2"
    )
    arrays = cached_arrays(f"{name}-1-{digest_of(path)}", lambda: _parsed(path))
    return Table(numbers=arrays["numbers"], hashes=arrays["hashes"], targets=arrays["targets"])


def _parsed(path: Path) -> dict[str, npt.NDArray[Any]]:
    text = read_text(path)
    skipped = 0
    if text.startswith(b"|"):
        # The first line of adult.test says "1x3 Cross validator"; both files end with an empty line.
        text, skipped = text.partition(b"\n")[2], 1
    fields = Fields(
        text.rstrip(b"\n").replace(b", ", b","),
        columns=LABEL + 1,
        separator=b",",
        source=path,
        first_line=skipped + 1,
    )
    columns = parsed_columns(fields, numbers=NUMBERS, categories=CATEGORIES, missing=b"?")
    return {**columns, "targets": fields.choices(LABEL, *_LABELS) % 2}
