import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_images(path: Path, colours: list[tuple[int, int, int]]) -> None:
    """Write one 32 x 32 JPEG a colour in the format of the CIFAR-10 files; labels count up to 9 in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = []
    for colour in colours:
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32), colour).save(buffer, "JPEG", quality=75)
        files.append(buffer.getvalue())
    np.savez(
        path,
        jpeg=np.frombuffer(b"".join(files), dtype=np.uint8),
        offsets=np.cumsum([0, *map(len, files)]).astype(np.int64),
        labels=(np.arange(len(files)) % 10).astype(np.uint8),
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    # An attribute, not the variable: no environment variable may be left changed.
    folder = tmp_path / "cache"
    monkeypatch.setattr("codistill.lab.tasks.cache.cache_folder", lambda: folder)
    return folder


@pytest.fixture
def small_cifar10(tmp_path: Path, cache: Path) -> Path:
    """A data root with 40 training and 10 test images of plain colours."""
    write_images(tmp_path / "cifar10" / "train.npz", [(6 * i, 200 - 5 * i, 40) for i in range(40)])
    write_images(tmp_path / "cifar10" / "test.npz", [(40, 6 * i, 200 - 5 * i) for i in range(10)])
    return tmp_path
