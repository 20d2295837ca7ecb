from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codistill.errors import DataMissingError
from codistill.lab.tasks.images.image_files import ImageFiles


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    """Two classes of plain images in red, green, blue and grey, of several sizes and formats."""
    for name, size, colour in (
        ("a/2.JPEG", (30, 20), (200, 0, 0)),
        ("a/10.jpg", (20, 30), (0, 200, 0)),
        ("a/notes.txt", None, None),
        ("b/\u00fc.png", (5, 5), (0, 0, 200)),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if size is None:
            path.write_text("no image")
        else:
            Image.new("RGB", size, colour).save(path)
    Image.new("L", (64, 64), 100).save(tmp_path / "b" / "grey.JPEG")
    Image.new("CMYK", (64, 64), (0, 0, 0, 0)).save(tmp_path / "b" / "print.JPEG")
    return ImageFiles.of(tmp_path, ("a", "b"), side=16)


def test_images_are_listed_by_class_and_name_and_decoded_to_squares(files: ImageFiles) -> None:
    assert len(files) == 5
    assert files.targets.tolist() == [0, 0, 1, 1, 1]
    images, targets = files.batch(torch.tensor([4, 0, 1, 3, 2]))
    assert images.shape == (5, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert targets.tolist() == [1, 0, 0, 1, 1]
    # In the order of names: 10 before 2, and "\u00fc" behind all letters.
    colours = [[0, 0, 200], [0, 200, 0], [200, 0, 0], [255, 255, 255], [100, 100, 100]]
    means = images.float().mean(dim=(2, 3))
    assert (means - torch.tensor(colours)).abs().max() < 4


def test_the_centre_of_the_longer_side_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = np.arange(0, 256, 8, dtype=np.uint8)[:, None]
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "wide.png")
    Image.fromarray(np.swapaxes(pixels, 0, 1).copy()).save(tmp_path / "a" / "x.png")
    images, _ = ImageFiles.of(tmp_path, ("a",), side=32).batch(torch.tensor([0, 1]))
    square = torch.from_numpy(pixels[:, 32:64]).permute(2, 0, 1)
    assert torch.equal(images[0], square)
    assert torch.equal(images[1], square.permute(0, 2, 1))


def test_large_jpeg_files_come_out_as_if_decoded_whole(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 200)
    pixels = np.stack([np.add.outer(ramp, ramp) / 2] * 3, axis=2).astype(np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "x.jpg", quality=95)
    images, _ = ImageFiles.of(tmp_path, ("a",), side=20).batch(torch.tensor([0]))
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float().view(3, 20, 10, 20, 10).mean(dim=(2, 4))
    assert (images[0] - expected).abs().max() < 4


def test_a_file_that_has_gone_is_named(files: ImageFiles, tmp_path: Path) -> None:
    gone = tmp_path / "a" / "2.JPEG"
    gone.unlink()
    with pytest.raises(DataMissingError, match=r"is not there any more: looked for .*2.JPEG"):
        files.batch(torch.tensor([0, 1, 2]))
    with pytest.raises(FileNotFoundError):
        ImageFiles.of(tmp_path, ("a", "c"), side=16)


def test_a_file_that_cannot_be_decoded_is_named(files: ImageFiles, tmp_path: Path) -> None:
    path = tmp_path / "a" / "2.JPEG"
    whole = path.read_bytes()
    for damaged in (b"", b"no image", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"2.JPEG must be an image, and it cannot be read: .* Fetch it"):
            files.batch(torch.tensor([0, 1, 2]))
