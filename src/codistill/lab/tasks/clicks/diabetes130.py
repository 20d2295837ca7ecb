"""Whether a patient with diabetes comes back: ``<data root>/diabetes130/diabetic_data.csv.gz``.

101,766 stays in 130 hospitals (UCI, Strack et al. 2014). Class 1 is any readmission, 46.1 per cent. Eight
columns are counts; 39 are categories, "?" among their values; the two identifiers are left out. There is no
official split: a seeded permutation of the 71,518 patients gives 70 per cent of them to training, 10 to
validation and 20 to test, so that no patient is on both sides.
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
COLUMNS = 50
PATIENT, LABEL = "patient_nbr", "readmitted"
COUNTS = (
    "time_in_hospital",
    "num_lab_procedures",
    "num_procedures",
    "num_medications",
    "number_outpatient",
    "number_emergency",
    "number_inpatient",
    "number_diagnoses",
)
_LABELS = (b"NO", b"<30", b">30")
_NO_CATEGORIES = {"encounter_id", PATIENT, LABEL, *COUNTS}


class Diabetes130(ClickTask):
    """Hospital stays, and whether the patient is admitted again."""

    @classmethod
    @override
    def prepare(cls, data_root: Path) -> None:
        _arrays(data_root)

    @override
    def __init__(self, data_root: Path) -> None:
        arrays = _arrays(data_root)
        self._table = Table(numbers=arrays["numbers"], hashes=arrays["hashes"], targets=arrays["targets"])
        train, validation, self._test = split_by_group(arrays["patients"])
        self._standardisation = Standardisation.fit([self._table.numbers[train]])
        self.train = self._split(train)
        self.validation = self._split(validation)
        self.numbers, self.categories = (part.shape[1] for part in self.train.inputs)

    @override
    def test(self) -> Split:
        return self._split(self._test)

    def _split(self, rows: npt.NDArray[np.int64]) -> Split:
        return self._table.split(rows, standardisation=self._standardisation, buckets=self.buckets)


def split_by_group(groups: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Return the rows of training, validation and test: 70, 10 and 20 per cent of the groups.

    Args:
        groups: Which group, such as a patient, each row belongs to, [rows].

    Returns:
        Row numbers, rising, int64; each row is in one of the three.
    """
    unique, group = np.unique(groups, return_inverse=True)
    # The old generator: NumPy has promised that its numbers will never change.
    rank = np.random.RandomState(SEED).permutation(len(unique))[group]
    part = np.digitize(rank, [len(unique) * 7 // 10, len(unique) * 8 // 10])
    return [np.flatnonzero(part == number) for number in range(3)]


def _arrays(data_root: Path) -> dict[str, npt.NDArray[Any]]:
    path = find_table(
        Path(data_root) / "diabetes130",
        "diabetic_data.csv",
        origin="the UCI Machine Learning Repository, data set 296",
    )
    return cached_arrays(f"diabetes130-1-{digest_of(path)}", lambda: _parsed(path))


def _parsed(path: Path) -> dict[str, npt.NDArray[Any]]:
    header, _, lines = read_text(path).partition(b"\n")
    index = {name: i for i, name in enumerate(header.decode().split(","))}
    lacking = sorted(_NO_CATEGORIES - index.keys())
    if lacking or len(index) != COLUMNS:
        raise ValueError(
            f"{path} must have a header of {COLUMNS} names, got {len(index)}, without {lacking}. "
            "Check that the file is the original one."
        )
    fields = Fields(lines, columns=COLUMNS, separator=b",", source=path, first_line=2)
    columns = parsed_columns(
        fields,
        numbers={name: index[name] for name in COUNTS},
        categories={name: i for name, i in index.items() if name not in _NO_CATEGORIES},
        missing=b"?",
    )
    return {
        **columns,
        "targets": np.minimum(fields.choices(index[LABEL], *_LABELS), 1),
        "patients": fields.column(index[PATIENT]).astype(np.int64),
    }
