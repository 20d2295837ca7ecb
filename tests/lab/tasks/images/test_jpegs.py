from pathlib import Path

import numpy as np
import pytest

from codistill.errors import DataMissingError
from codistill.lab.tasks.images import jpegs
from codistill.lab.tasks.images.jpegs import Labels, Pixels


def load_images(path: Path) -> tuple[Pixels, Labels]:
    return jpegs.load_images(path, origin="the attic")


def test_images_are_decoded_as_red_green_blue(small_cifar10: Path) -> None:
    pixels, labels = load_images(small_cifar10 / "cifar10" / "train.npz")
    assert pixels.shape == (40, 32, 32, 3)
    assert pixels.dtype == np.uint8
    assert labels.tolist() == [i % 10 for i in range(40)]
    assert labels.dtype == np.int64
    for i in (0, 17, 39):
        assert np.abs(pixels[i].mean(axis=(0, 1)) - [6 * i, 200 - 5 * i, 40]).max() < 3


def test_images_are_decoded_once(small_cifar10: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_cifar10 / "cifar10" / "test.npz"
    first, _ = load_images(path)
    (cached,) = cache.iterdir()
    assert cached.name.startswith("cifar10-test-")
    monkeypatch.setattr(jpegs, "_decode", lambda *_: pytest.fail("decoded again"))
    second, _ = load_images(path)
    assert np.array_equal(first, second)


def test_other_images_under_the_same_name_do_not_get_the_cached_pixels(small_cifar10: Path) -> None:
    path = small_cifar10 / "cifar10" / "test.npz"
    load_images(path)
    path.write_bytes((small_cifar10 / "cifar10" / "train.npz").read_bytes())
    pixels, _ = load_images(path)
    assert len(pixels) == 40


def test_a_damaged_cache_is_written_anew(small_cifar10: Path, cache: Path) -> None:
    path = small_cifar10 / "cifar10" / "test.npz"
    first, labels = load_images(path)
    (cached,) = cache.iterdir()
    whole = cached.read_bytes()
    for damaged in (b"not an array", whole[: len(whole) // 2]):
        cached.write_bytes(damaged)
        again, again_labels = load_images(path)
        assert np.array_equal(again, first)
        assert np.array_equal(again_labels, labels)
        with np.load(cached, allow_pickle=False) as arrays:
            assert np.array_equal(arrays["pixels"], first)


def test_without_a_writable_cache_images_are_decoded_all_the_same(small_cifar10: Path, cache: Path) -> None:
    cache.write_text("a file in the way")
    pixels, _ = load_images(small_cifar10 / "cifar10" / "test.npz")
    assert len(pixels) == 10
    assert cache.read_text() == "a file in the way"


def test_a_missing_file_is_reported_with_place_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match="--data-root, or set CODISTILL_DATA") as caught:
        load_images(tmp_path / "cifar10" / "train.npz")
    path = tmp_path / "cifar10" / "train.npz"
    assert f"looked for {path}, which comes from the attic; pass" in str(caught.value)


def test_a_file_of_another_format_is_refused(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "cifar10" / "train.npz"
    path.parent.mkdir()
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="must hold the arrays jpeg, offsets and labels"):
        load_images(path)
    np.savez(path, jpeg=np.zeros(4, np.uint8), labels=np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match="must hold the arrays jpeg, offsets and labels"):
        load_images(path)
    for offsets in ([0, 5], [0, 0], [0, 2, 4]):
        np.savez(path, jpeg=np.zeros(4, np.uint8), offsets=np.array(offsets), labels=np.zeros(1, np.uint8))
        with pytest.raises(ValueError, match="offsets must rise within jpeg"):
            load_images(path)
