from pathlib import Path

import pytest
import torch

from codistill.errors import DataMissingError
from codistill.lab.tasks.clicks import adult
from codistill.lab.tasks.clicks.adult import Adult


def test_a_tenth_of_the_training_file_validates(small_adult: Path) -> None:
    task = Adult(small_adult)
    assert [len(part) for part in (task.train, task.validation, task.test())] == [36, 4, 8]
    assert (task.numbers, task.categories) == (6, 8)
    features, buckets = task.train.inputs
    assert (features.shape, features.dtype) == ((36, 6), torch.float32)
    assert (buckets.shape, buckets.dtype) == ((36, 8), torch.int64)
    assert int(buckets.max()) < task.buckets
    ages = torch.cat([task.train.inputs[0][:, 0], task.validation.inputs[0][:, 0]])
    assert len(ages.unique()) == 40


def test_traps_of_the_test_file_are_no_rows_and_no_classes(small_adult: Path) -> None:
    test = Adult(small_adult).test()
    assert test.targets.tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    # Ages 60 to 67 in the order of the file.
    assert bool((test.inputs[0][:, 0].diff() > 0).all())


def test_the_split_is_the_same_every_time(small_adult: Path) -> None:
    torch.manual_seed(0)
    first = Adult(small_adult)
    torch.manual_seed(1)
    second = Adult(small_adult)
    assert torch.equal(first.train.inputs[0], second.train.inputs[0])
    assert torch.equal(first.validation.inputs[1], second.validation.inputs[1])


def test_numbers_are_scaled_by_training_rows_alone(small_adult: Path) -> None:
    task = Adult(small_adult)
    features, _ = task.train.inputs
    assert features.mean(dim=0).tolist() == pytest.approx([0] * 6, abs=1e-5)
    # Age, weight and gain; the others never change.
    assert features.std(dim=0, correction=0).tolist() == pytest.approx([1, 1, 0, 1, 0, 0], abs=1e-5)
    assert task.test().inputs[0][:, 0].min() > features[:, 0].max()


def test_later_jobs_read_the_cache_alone(small_adult: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Adult.prepare(small_adult)
    monkeypatch.setattr(adult, "_parsed", lambda path: pytest.fail("parsed again"))
    assert len(Adult(small_adult).test()) == 8


def test_missing_data_say_where_they_come_from(small_adult: Path) -> None:
    (small_adult / "adult" / "adult.test.gz").unlink()
    with pytest.raises(DataMissingError, match=r"'adult' is not there: looked for .*adult\.test.* UCI"):
        Adult.prepare(small_adult)


@pytest.mark.data
def test_the_real_answers_are_as_documented(data_root: Path, cache: Path) -> None:
    task = Adult(data_root)
    parts = torch.cat([task.train.targets, task.validation.targets])
    assert torch.bincount(parts).tolist() == [32_561 - 7_841, 7_841]
    assert torch.bincount(task.test().targets).tolist() == [16_281 - 3_846, 3_846]
    assert [len(task.train), len(task.validation)] == [29_305, 3_256]
