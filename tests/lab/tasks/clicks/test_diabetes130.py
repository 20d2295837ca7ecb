import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from codistill.errors import DataMissingError
from codistill.lab.tasks.clicks import diabetes130
from codistill.lab.tasks.clicks.diabetes130 import Diabetes130, split_by_group
from codistill.lab.tasks.clicks.fields import Fields, find_table, read_text
from codistill.lab.tasks.clicks.hashed import buckets_of, hashes


def path_of(data_root: Path) -> Path:
    return data_root / "diabetes130" / "diabetic_data.csv.gz"


def rewrite(data_root: Path, old: str, new: str) -> None:
    text = gzip.decompress(path_of(data_root).read_bytes()).decode()
    assert old in text
    path_of(data_root).write_bytes(gzip.compress(text.replace(old, new).encode()))


def test_no_patient_is_on_two_sides() -> None:
    patients = np.random.RandomState(1).randint(0, 200, size=1000)
    parts = split_by_group(patients)
    assert sorted(np.concatenate(parts).tolist()) == list(range(1000))
    sides = [set(patients[part].tolist()) for part in parts]
    groups = len(np.unique(patients))
    assert len(set.union(*sides)) == sum(map(len, sides)) == groups
    assert [len(side) for side in sides] == pytest.approx([0.7 * groups, 0.1 * groups, 0.2 * groups], abs=1)


def test_stays_of_a_patient_stay_together_and_are_what_the_file_says(small_diabetes130: Path) -> None:
    task = Diabetes130(small_diabetes130)
    # 30 patients of 3 stays each, of whom 21, 3 and 6 fall to the parts.
    assert [len(part) for part in (task.train, task.validation, task.test())] == [63, 9, 18]
    assert (task.numbers, task.categories) == (8, 39)
    features, buckets = task.train.inputs
    assert (features.shape, features.dtype) == ((63, 8), torch.float32)
    assert (buckets.shape, buckets.dtype) == ((63, 39), torch.int64)
    assert features.mean(dim=0).tolist() == pytest.approx([0] * 8, abs=1e-5)
    weights = buckets_of(hashes(np.array([b"?", b"[50-75)"]), column="weight"), task.buckets)
    assert set(buckets[:, 1].tolist()) == set(weights.tolist())
    # Every third stay is "NO", the class 0.
    assert task.class_frequencies().tolist() == pytest.approx([1 / 3, 2 / 3], abs=0.1)
    assert task.train.targets.dtype == torch.int64


def test_identifiers_are_no_features(small_diabetes130: Path) -> None:
    before = Diabetes130(small_diabetes130).train
    rewrite(small_diabetes130, "\n100", "\n777")
    after = Diabetes130(small_diabetes130).train
    assert torch.equal(before.inputs[0], after.inputs[0])
    assert torch.equal(before.inputs[1], after.inputs[1])


def test_numbers_are_scaled_by_training_rows_alone(small_diabetes130: Path) -> None:
    task = Diabetes130(small_diabetes130)
    row = int(task._test[0])
    lines = gzip.decompress(path_of(small_diabetes130).read_bytes()).decode().split("\r\n")
    values = lines[1 + row].split(",")
    rewrite(small_diabetes130, lines[1 + row], ",".join([*values[:4], *["999"] * 8, *values[12:]]))
    changed = Diabetes130(small_diabetes130)
    assert torch.equal(changed.train.inputs[0], task.train.inputs[0])
    assert changed.test().inputs[0][0].min() > task.test().inputs[0].max()


def test_later_jobs_read_the_cache_alone(small_diabetes130: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Diabetes130.prepare(small_diabetes130)
    monkeypatch.setattr(diabetes130, "_parsed", lambda path: pytest.fail("parsed again"))
    assert len(Diabetes130(small_diabetes130).train) == 63


def test_what_is_not_the_original_is_refused(small_diabetes130: Path) -> None:
    rewrite(small_diabetes130, "<30", "soon")
    with pytest.raises(
        ValueError, match=r"Column 50 of line 4 of .* must be one of NO, <30, >30, got 'soon'"
    ):
        Diabetes130(small_diabetes130)
    rewrite(small_diabetes130, "num_medications", "medications")
    with pytest.raises(ValueError, match=r"header of 50 names, got 50, without \['num_medications'\]"):
        Diabetes130(small_diabetes130)


def test_missing_data_say_where_they_come_from(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataMissingError, match=r"'diabetes130' is not there: looked for .*UCI"):
        Diabetes130.prepare(tmp_path)


@pytest.mark.data
def test_the_real_stays_are_as_documented(data_root: Path, cache: Path) -> None:
    task = Diabetes130(data_root)
    parts = [task.train, task.validation, task.test()]
    targets = torch.cat([part.targets for part in parts])
    assert torch.bincount(targets).tolist() == [54_864, 35_545 + 11_357]
    assert [len(part) for part in parts] == [71_352, 10_056, 20_358]
    assert (task.numbers, task.categories) == (8, 39)
    path = find_table(data_root / "diabetes130", "diabetic_data.csv", origin="")
    header, _, text = read_text(path).partition(b"\n")
    names = header.decode().split(",")
    fields = Fields(text, columns=50, separator=b",", source=path)
    different = [len(np.unique(fields.column(names.index(f"diag_{n}")))) for n in (1, 2, 3)]
    assert different == [717, 749, 790]
    patients = fields.column(names.index("patient_nbr"))
    assert len(np.unique(patients)) == 71_518
    sides = [np.unique(patients[rows]) for rows in split_by_group(patients.astype(np.int64))]
    assert sum(map(len, sides)) == 71_518


@pytest.mark.data
def test_training_beats_the_base_rate(data_root: Path, cache: Path) -> None:
    task = Diabetes130(data_root)
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for rows in torch.randperm(len(task.train))[:40_000].split(1024):
        inputs, targets = task.train.batch(rows)
        optimizer.zero_grad()
        task.loss(model(*inputs), targets).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = task.loss(model(*task.validation.inputs), task.validation.targets).item()
    share = task.class_frequencies()[1].double()
    logit = torch.full((len(task.validation), 1), torch.logit(share).item())
    base = task.loss(logit, task.validation.targets).item()
    assert base == pytest.approx(0.69, abs=0.005)
    assert found < base - 0.04
    auc = task.further_scores(model, task.validation, device=torch.device("cpu"))["auc"]
    assert auc > 0.67
