import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from codistill.errors import DataMissingError, ExtraMissingError, RecipeError
from codistill.lab.tasks.images.image_files import ImageFiles
from codistill.lab.tasks.images.imagenet import MEAN, STANDARD_DEVIATION, ImageNet, crop_scale_and_flip

CLASSES = ("n01", "n02", "n03")


@pytest.fixture
def small_imagenet(tmp_path: Path) -> Path:
    """A data root with 3 classes of 40 training and 2 test images of plain colours, 20 x 16."""
    for part, count in (("train", 40), ("val", 2)):
        for number, name in enumerate(CLASSES):
            folder = tmp_path / "imagenet" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (20, 16), (80 * number, 5 * i, 250)).save(folder / f"{name}_{i:02}.JPEG")
    return tmp_path


def test_a_fiftieth_of_the_training_images_validates(small_imagenet: Path) -> None:
    ImageNet.prepare(small_imagenet)
    task, again = ImageNet(small_imagenet), ImageNet(small_imagenet)
    assert task.classes == 3
    assert (len(task.train), len(task.validation), len(task.test())) == (118, 2, 6)
    rows = torch.cat([task.train.rows, task.validation.rows])
    assert torch.equal(rows.sort().values, torch.arange(120))
    assert torch.equal(task.validation.rows, again.validation.rows)
    images, targets = task.test().batch(torch.tensor([0, 2, 5]))
    assert images.shape == (3, 3, 256, 256)
    assert targets.tolist() == [0, 1, 2]
    assert images.float().mean(dim=(2, 3))[:, 0].tolist() == pytest.approx([0, 80, 160], abs=3)


def test_classes_are_counted_without_a_look_at_the_images(
    small_imagenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = ImageNet(small_imagenet)
    targets = task.train.batch(torch.arange(118))[1]
    monkeypatch.setattr(ImageFiles, "batch", lambda *_: pytest.fail("decoded"))
    frequencies = task.class_frequencies()
    assert frequencies.tolist() == pytest.approx((torch.bincount(targets) / 118).tolist())
    assert frequencies.dtype == torch.float32


def test_evaluation_sees_the_normalised_centre(small_imagenet: Path) -> None:
    task = ImageNet(small_imagenet)
    images = torch.zeros(1, 3, 256, 256, dtype=torch.uint8)
    images[:, :, 16:240, 16:240] = 255
    expected = [(1 - mean) / deviation for mean, deviation in zip(MEAN, STANDARD_DEVIATION, strict=True)]
    inputs = task.inputs(images)
    assert inputs.shape == (1, 3, 224, 224)
    assert inputs.amin(dim=(0, 2, 3)).tolist() == pytest.approx(expected, abs=1e-5)
    assert inputs.amax(dim=(0, 2, 3)).tolist() == pytest.approx(expected, abs=1e-5)


def test_crops_are_rectangles_within_the_image_of_the_sizes_promised() -> None:
    # The colours say where a pixel comes from, 0 to 255 along each side.
    place = torch.arange(256, dtype=torch.uint8)
    images = torch.stack([place.expand(256, 256), place[:, None].expand(256, 256), torch.zeros(256, 256)])
    crops = crop_scale_and_flip(images.byte().expand(300, -1, -1, -1), torch.Generator().manual_seed(0))
    assert crops.shape == (300, 3, 224, 224)
    across, down = crops[:, 0], crops[:, 1]
    # Straight and without shear: a column knows where it comes from, and so does a row.
    assert float((across - across[:, :1]).abs().max()) < 1e-3
    assert float((down - down[:, :, :1]).abs().max()) < 1e-3
    widths = (across[:, 0, -1] - across[:, 0, 0]) / 223 * 224
    heights = (down[:, -1, 0] - down[:, 0, 0]) / 223 * 224
    assert bool((heights > 0).all())
    assert 100 < int((widths < 0).sum()) < 200
    areas, aspects = widths.abs() * heights / 256**2, widths.abs() / heights
    assert 0.07 < float(areas.min()) < 0.12
    assert 0.85 < float(areas.max()) <= 1.01
    assert float(aspects.min()) == pytest.approx(3 / 4, abs=0.03)
    assert float(aspects.max()) == pytest.approx(4 / 3, abs=0.03)
    assert float(aspects.log().mean()) == pytest.approx(0, abs=0.03)
    # Anywhere: the centres spread to all sides.
    centres = torch.stack([across.mean(dim=(1, 2)), down.mean(dim=(1, 2))])
    assert centres.mean(dim=1).tolist() == pytest.approx([127.5, 127.5], abs=6)
    assert bool((centres.amin(dim=1) < 60).all())
    assert bool((centres.amax(dim=1) > 195).all())


def test_augmentation_comes_from_the_generator_alone(small_imagenet: Path) -> None:
    task = ImageNet(small_imagenet)
    images = torch.arange(256, dtype=torch.uint8).expand(4, 3, 256, 256)
    torch.manual_seed(1)
    first = task.training_inputs(images, torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    assert torch.equal(first, task.training_inputs(images, torch.Generator().manual_seed(5)))
    assert not torch.equal(first, task.training_inputs(images, torch.Generator().manual_seed(6)))
    assert first.shape == (4, 3, 224, 224)


def test_models_are_made_by_name_and_width(small_imagenet: Path) -> None:
    task = ImageNet(small_imagenet)
    assert task.models[0] == "resnet50"
    with torch.device("meta"):
        model = task.model("resnext101_32x8d", width=32)
        assert task.model().head.weight.shape == (3, 2048)
    assert model.head.weight.shape == (3, 1024)
    with pytest.raises(RecipeError, match=r"model must be one of resnet50, .* got 'resnet8'"):
        task.model("resnet8")


def test_missing_folders_are_reported_with_place_and_origin(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"image-net\.org; pass --data-root") as caught:
        ImageNet(tmp_path)
    assert f"looked for one folder a class in {tmp_path / 'imagenet' / 'train'}" in str(caught.value)


def test_test_images_that_are_not_in_folders_of_classes_are_reported(small_imagenet: Path) -> None:
    val = small_imagenet / "imagenet" / "val"
    for image in val.glob("*/*.JPEG"):
        image.rename(val / image.name)
    for name in CLASSES[1:]:
        (val / name).rmdir()
    with pytest.raises(
        ValueError, match="must hold the same folders of classes as train beside it, and 2 diff"
    ):
        ImageNet.prepare(small_imagenet)
    (val / CLASSES[0]).rmdir()
    with pytest.raises(DataMissingError, match=r"looked for one folder a class in .*val"):
        ImageNet.prepare(small_imagenet)


def test_a_class_without_images_is_reported(small_imagenet: Path) -> None:
    for image in (small_imagenet / "imagenet" / "train" / "n02").iterdir():
        image.unlink()
    with pytest.raises(DataMissingError, match=r"The images of class 'n02' are not there: looked for"):
        ImageNet(small_imagenet)


def test_pillow_is_asked_for_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ExtraMissingError, match=r"PIL must be installed .* 'codistill\[lab\]'"):
        ImageNet.prepare(tmp_path)
