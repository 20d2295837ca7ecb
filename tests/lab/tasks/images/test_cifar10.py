import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from codistill.errors import ExtraMissingError, RecipeError
from codistill.lab.tasks.images.cifar10 import MEAN, PADDING, STANDARD_DEVIATION, Cifar10, crop_and_flip


def test_the_last_tenth_of_the_training_file_validates(small_cifar10: Path) -> None:
    task = Cifar10(small_cifar10)
    assert task.train.inputs.shape == (36, 3, 32, 32)
    assert task.train.inputs.dtype == torch.uint8
    assert task.validation.targets.tolist() == [6, 7, 8, 9]
    assert len(task.test().targets) == 10
    # Red rises with the number of the image, so the order is that of the file.
    red = task.train.inputs[:, 0].float().mean(dim=(1, 2))
    assert bool((red.diff() > 0).all())


def test_inputs_are_normalised_by_colour(small_cifar10: Path) -> None:
    task = Cifar10(small_cifar10)
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    expected = [(1 - mean) / deviation for mean, deviation in zip(MEAN, STANDARD_DEVIATION, strict=True)]
    assert task.inputs(white)[0, :, 0, 0].tolist() == pytest.approx(expected)


def test_inputs_have_the_colours_of_a_pixel_side_by_side(small_cifar10: Path) -> None:
    task = Cifar10(small_cifar10)
    stored, _ = task.validation.batch(torch.arange(4))
    for inputs in (task.inputs(stored), task.training_inputs(stored, torch.Generator())):
        assert inputs.dtype == torch.float32
        assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert stored.dtype == torch.uint8


def test_cropping_shifts_and_flipping_mirrors_each_image_by_itself() -> None:
    images = torch.arange(1, 1 + 3 * 32 * 32, dtype=torch.int64).view(1, 3, 32, 32).repeat(64, 1, 1, 1)
    changed = crop_and_flip(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    padded = torch.nn.functional.pad(images[0], (PADDING,) * 4)
    candidates = [
        crop.flip(2) if is_flipped else crop
        for top in range(2 * PADDING + 1)
        for left in range(2 * PADDING + 1)
        for crop in [padded[:, top : top + 32, left : left + 32]]
        for is_flipped in (False, True)
    ]
    kinds = [next(i for i, c in enumerate(candidates) if torch.equal(c, image)) for image in changed]
    assert len(set(kinds)) > 30
    assert {kind % 2 for kind in kinds} == {0, 1}


def test_augmentation_comes_from_the_generator_alone(small_cifar10: Path) -> None:
    task = Cifar10(small_cifar10)
    batch, _ = task.train.batch(torch.arange(8))
    torch.manual_seed(1)
    first = task.training_inputs(batch, torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    second = task.training_inputs(batch, torch.Generator().manual_seed(5))
    other = task.training_inputs(batch, torch.Generator().manual_seed(6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_models_are_made_by_name_and_width(small_cifar10: Path) -> None:
    task = Cifar10(small_cifar10)
    assert task.models == ("resnet8", "resnet20", "resnet32", "wrn16_2", "wrn28_10", "mobilenet")

    def parameters(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    with torch.device("meta"):
        counts = [parameters(task.model(name)) for name in task.models]
        assert counts == [78_042, 272_474, 466_906, 691_674, 36_479_194, 3_217_226]
        assert parameters(task.model()) == 78_042
        narrow = [parameters(task.model(name, width=4)) for name in task.models]
    assert all(few < many / 10 for few, many in zip(narrow, counts, strict=True))
    with pytest.raises(RecipeError, match=r"model must be one of resnet8, .*, mobilenet, got 'vgg'"):
        task.model("vgg")


@pytest.mark.data
def test_the_real_images_have_the_documented_mean_and_deviation(data_root: Path, cache: Path) -> None:
    task = Cifar10(data_root)
    assert task.train.inputs.shape == (45000, 3, 32, 32)
    assert torch.bincount(task.validation.targets).tolist() == [500] * 10
    pixels = torch.cat([task.train.inputs, task.validation.inputs]).float() / 255
    assert pixels.mean(dim=(0, 2, 3)).tolist() == pytest.approx(MEAN, abs=1e-4)
    assert pixels.std(dim=(0, 2, 3)).tolist() == pytest.approx(STANDARD_DEVIATION, abs=1e-4)


def test_pillow_is_asked_for_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ExtraMissingError, match=r"PIL must be installed .* 'codistill\[lab\]'"):
        Cifar10.prepare(tmp_path)
