from pathlib import Path

import pytest
import torch

from codistill.lab import tasks
from codistill.lab.tasks.base import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return tasks.load("digits_clean", data_root=Path())


def test_the_parts_are_those_of_digits(task: Task) -> None:
    noisy = tasks.load("digits", data_root=Path())
    for part, other in zip(
        (task.train, task.validation, task.test()), (noisy.train, noisy.validation, noisy.test()), strict=True
    ):
        assert torch.equal(part.inputs, other.inputs)
    assert torch.equal(task.test().targets, noisy.test().targets)
    # As many as test_digits finds replaced there.
    assert int((task.train.targets != noisy.train.targets).sum()) == 132
    assert int((task.validation.targets != noisy.validation.targets).sum()) == 35


def test_no_label_is_replaced(task: Task) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    clean = {tuple(row): label for row, label in zip((bunch.data / 16).tolist(), bunch.target, strict=True)}
    for part in (task.train, task.validation, task.test()):
        assert [clean[tuple(row)] for row in part.inputs.double().tolist()] == part.targets.tolist()


def test_the_model_is_that_of_digits(task: Task) -> None:
    assert [tuple(p.shape) for p in task.model().parameters() if p.ndim == 2] == [
        (128, 64),
        (128, 128),
        (10, 128),
    ]
