"""Rows in a file of the cache folder, read as they are asked for: for data larger than memory."""

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from codistill.lab.tasks import cache

Rows = npt.NDArray[np.void]


def mapped_rows(key: str, dtype: "np.dtype[Any]", chunks: Callable[[], Iterable[Rows]]) -> Rows:
    """Return memory-mapped rows; made and kept as ``<cache folder>/<key>.rows`` if they are not there.

    Where that folder cannot be written, they are made every time, in a temporary file that goes when the
    rows do.

    Args:
        key: A file name with a digest of the sources in it.
        dtype: Of a row, a structure.
        chunks: Called to make them: returns the rows, part by part, at least one.

    Returns:
        [rows], read-only.
    """
    path = cache.cache_folder() / f"{key}.rows"
    if not path.is_file() and not _save(path, chunks):
        with tempfile.TemporaryFile() as file:
            _write(file, chunks())
            return np.asarray(np.memmap(file, dtype=dtype, mode="r"))
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def _save(path: Path, chunks: Callable[[], Iterable[Rows]]) -> bool:
    """Write the file and return whether that was possible; readers see all of it or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError:
        return False
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            _write(file, chunks())
        partial.replace(path)
    except OSError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def _write(file: BinaryIO, chunks: Iterable[Rows]) -> None:
    for chunk in chunks:
        chunk.tofile(file)
    file.flush()
