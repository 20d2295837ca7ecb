from pathlib import Path

import pytest
import torch

from codistill.errors import RecipeError
from codistill.lab import tasks
from codistill.lab.tasks.images.digits import Digits


@pytest.fixture(scope="module")
def task() -> Digits:
    return Digits(Path())


def test_the_split_is_40_10_50_and_no_image_is_in_two_parts(task: Digits) -> None:
    parts = (task.train, task.validation, task.test())
    assert [len(part.targets) for part in parts] == [718, 180, 899]
    rows = [tuple(row) for part in parts for row in part.inputs.tolist()]
    assert len(rows) == 1797
    assert len(set(rows)) == 1797


def test_the_same_labels_are_replaced_every_time_and_none_of_the_test_set(task: Digits) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    clean = {tuple(row): label for row, label in zip((bunch.data / 16).tolist(), bunch.target, strict=True)}
    changed = []
    for part in (task.train, task.validation, task.test()):
        true = torch.tensor([clean[tuple(row)] for row in part.inputs.double().tolist()])
        changed.append(int((true != part.targets).sum()))
    # 143 and 36 are drawn anew, a tenth of which by chance stay what they were.
    assert changed == [132, 35, 0]
    again = Digits(Path())
    assert torch.equal(task.train.targets, again.train.targets)
    assert torch.equal(task.train.inputs, again.train.inputs)


def test_pixels_lie_between_0_and_1(task: Digits) -> None:
    assert task.train.inputs.dtype == torch.float32
    assert float(task.train.inputs.min()) == 0.0
    assert float(task.train.inputs.max()) == 1.0


def test_the_model_has_the_widths_it_is_said_to_have(task: Digits) -> None:
    model = task.model()
    assert [tuple(p.shape) for p in model.parameters() if p.ndim == 2] == [(128, 64), (128, 128), (10, 128)]
    assert model(task.train.inputs[:3]).shape == (3, 10)
    narrow = task.model(width=8)
    assert [tuple(p.shape) for p in narrow.parameters() if p.ndim == 2] == [(8, 64), (8, 8), (10, 8)]


def test_there_is_one_model(task: Digits) -> None:
    assert task.models == ("mlp",)
    assert task.model("mlp")(task.train.inputs[:3]).shape == (3, 10)
    with pytest.raises(RecipeError, match="model must be one of mlp, got 'resnet8'"):
        task.model("resnet8")


def test_inputs_are_not_augmented(task: Digits) -> None:
    batch = task.train.inputs[:4]
    assert torch.equal(task.training_inputs(batch, torch.Generator()), batch)


def test_tasks_are_found_by_name(tmp_path: Path) -> None:
    assert {"cifar10", "digits", "digits_clean", "imagenet"} <= set(tasks.names())
    assert isinstance(tasks.load("digits", data_root=tmp_path), Digits)
    with pytest.raises(ValueError, match=r"task must be one of .*cifar10, .*digits, .* got 'chess'"):
        tasks.load("chess", data_root=tmp_path)
