"""Images stored as JPEG files one after another in an ``.npz``, decoded once and cached as raw pixels."""

import hashlib
import io
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codistill.errors import DataMissingError
from codistill.extras import require

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def load_images(path: Path) -> tuple[Pixels, Labels]:
    """Return the images and labels of one file.

    Decoded pixels are kept in ``$XDG_CACHE_HOME/codistill`` (``~/.cache/codistill`` if that is unset) under
    a name made from the size of the JPEG data and the digest of their offsets and first and last bytes. Where
    that folder cannot be written, images are decoded every time.

    Args:
        path: An ``.npz`` with ``jpeg``, ``offsets`` and ``labels``.

    Returns:
        uint8 [N, height, width, 3], and int64 [N].

    Raises:
        DataMissingError: If there is no such file.
        ValueError: If it does not hold these arrays, or its offsets do not fit.
        ExtraMissingError: If Pillow is not installed and images have to be decoded.
    """
    jpeg, offsets, labels = _read(path)
    cached = _cache_folder() / f"{path.parent.name}-{path.stem}-{_digest(jpeg, offsets)}.npy"
    pixels = _load_cached(cached, count=len(labels))
    if pixels is None:
        pixels = _decode(jpeg, offsets)
        _save_cached(cached, pixels)
    return pixels, labels.astype(np.int64)


def _read(path: Path) -> tuple[Any, Any, Any]:
    if not path.is_file():
        raise DataMissingError(
            f"The data set {path.parent.name!r} is not there: looked for {path}. Pass --data-root, or set "
            "CODISTILL_DATA, to the folder that holds the data sets' folders."
        )
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


def _decode(jpeg: Pixels, offsets: Labels) -> Pixels:
    image = require("PIL.Image", "lab")
    data = jpeg.tobytes()
    return np.stack(
        [
            np.asarray(image.open(io.BytesIO(data[start:end])).convert("RGB"), dtype=np.uint8)
            for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        ]
    )


def _digest(jpeg: Pixels, offsets: Labels) -> str:
    # Every image's length is in the offsets, so another data set, or another part, has another digest
    # without 46 MB being read through a hash at every start.
    digest = hashlib.sha256(np.ascontiguousarray(offsets).tobytes())
    digest.update(jpeg[:4096].tobytes())
    digest.update(jpeg[-4096:].tobytes())
    return f"{len(jpeg)}-{digest.hexdigest()[:16]}"


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codistill"


def _load_cached(path: Path, *, count: int) -> Pixels | None:
    try:
        pixels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) != count:
        return None
    return np.asarray(pixels)


def _save_cached(path: Path, pixels: Pixels) -> None:
    """Keep the pixels; several processes may do so at once, and readers see all or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, pixels, allow_pickle=False)
        Path(partial).replace(path)
    except OSError:
        Path(partial).unlink(missing_ok=True)
