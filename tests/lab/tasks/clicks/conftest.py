import gzip
from pathlib import Path

import numpy as np
import pytest

from codistill.lab.tasks.clicks.diabetes130 import COLUMNS, COUNTS, LABEL, PATIENT

PATIENTS = 30
STAYS = 90
HEADER = ("encounter_id", PATIENT, "race", "weight", *COUNTS, *(f"drug_{n}" for n in range(37)), LABEL)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    # An attribute, not the variable: no environment variable may be left changed.
    folder = tmp_path / "cache"
    monkeypatch.setattr("codistill.lab.tasks.cache.cache_folder", lambda: folder)
    return folder


@pytest.fixture
def small_diabetes130(tmp_path: Path, cache: Path) -> Path:
    """A data root with 90 stays of 30 patients; as in the original, lines end in "\\r\\n"."""
    assert len(HEADER) == COLUMNS
    random = np.random.RandomState(0)
    lines = [",".join(HEADER)]
    for stay in range(STAYS):
        counts = random.poisson(3, size=len(COUNTS)).tolist()
        drugs = random.choice(["No", "Up", "Steady"], size=37).tolist()
        label = ("NO", ">30", "<30")[stay % 3]
        values = (10_000 + stay, 500 + stay % PATIENTS, "Asian", "?" if stay % 2 else "[50-75)")
        lines.append(",".join(map(str, (*values, *counts, *drugs, label))))
    write(tmp_path / "diabetes130" / "diabetic_data.csv.gz", "\r\n".join(lines) + "\r\n")
    return tmp_path


@pytest.fixture
def small_adult(tmp_path: Path, cache: Path) -> Path:
    """A data root with 40 training and 8 test rows, and the traps of both files."""
    row = "{age}, Private, {weight}, 9th, 9, Divorced, ?, Husband, White, Male, {gain}, 0, 40, Peru, {label}"
    rows = [
        row.format(age=20 + n, weight=1000 * n, gain=n % 4 * 5000, label=">50K" if n % 4 == 0 else "<=50K")
        for n in range(48)
    ]
    write(tmp_path / "adult" / "adult.data.gz", "\n".join(rows[:40]) + "\n\n")
    test = [f"{line}." for line in rows[40:]]
    write(tmp_path / "adult" / "adult.test.gz", "\n".join(["|1x3 Cross validator", *test]) + "\n\n")
    return tmp_path


@pytest.fixture
def small_criteo(tmp_path: Path, cache: Path) -> Path:
    """A data root with 200 advertisements, every fifth clicked; I1 counts them, I2 is at times below 0."""
    lines = []
    for n in range(200):
        numbers = [str(n), str(n % 5 - 2), "" if n % 3 == 0 else "7", *["1"] * 10]
        categories = [f"{n % 7:08x}", "" if n % 2 else "deadbeef", *["0123abcd"] * 24]
        lines.append("\t".join(["1" if n % 5 == 0 else "0", *numbers, *categories]))
    write(tmp_path / "criteo" / "train.txt", "\n".join(lines) + "\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
