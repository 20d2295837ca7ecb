"""Images stored as JPEG files one after another in an ``.npz``, decoded once and cached as raw pixels."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codistill.errors import DataMissingError
from codistill.extras import require
from codistill.lab.tasks.cache import cached_arrays, digest_of

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def load_images(path: Path, *, origin: str) -> tuple[Pixels, Labels]:
    """Return the images and labels of one file, from the cache if they have been decoded before.

    Args:
        path: An ``.npz`` with ``jpeg``, ``offsets`` and ``labels``.
        origin: Where the data come from, for the error.

    Returns:
        uint8 [N, height, width, 3], and int64 [N].

    Raises:
        DataMissingError: If there is no such file.
        ValueError: If it does not hold these arrays, or its offsets do not fit.
        ExtraMissingError: If Pillow is not installed and images have to be decoded.
    """
    if not path.is_file():
        raise DataMissingError(
            f"The data set {path.parent.name!r} is not there: looked for {path}, which comes from {origin}; "
            "pass --data-root, or set CODISTILL_DATA, to the folder that holds the data sets' folders."
        )
    arrays = cached_arrays(f"{path.parent.name}-{path.stem}-{digest_of(path)}", lambda: _decode(path))
    return arrays["pixels"], arrays["labels"]


def _decode(path: Path) -> dict[str, Any]:
    image = require("PIL.Image", "lab")
    jpeg, offsets, labels = _read(path)
    data = jpeg.tobytes()
    pixels = np.stack(
        [
            np.asarray(image.open(io.BytesIO(data[start:end])).convert("RGB"), dtype=np.uint8)
            for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        ]
    )
    return {"pixels": pixels, "labels": labels.astype(np.int64)}


def _read(path: Path) -> tuple[Any, Any, Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            jpeg, offsets, labels = arrays["jpeg"], arrays["offsets"], arrays["labels"]
    except (KeyError, ValueError, zipfile.BadZipFile) as e:
        raise ValueError(
            f"{path} must hold the arrays jpeg, offsets and labels, and it does not: {e}."
        ) from e
    fits = len(offsets) == len(labels) + 1 and offsets[0] >= 0 and offsets[-1] <= len(jpeg)
    if not fits or np.any(np.diff(offsets) <= 0):
        raise ValueError(f"offsets must rise within jpeg, one more than labels; in {path} they do not.")
    return jpeg, offsets, labels
