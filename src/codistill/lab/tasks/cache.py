"""What is made once from a data set's files, such as decoded or tokenised samples, in the user's cache."""

import hashlib
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_END_BYTES = 1 << 20
"""How much of a file's beginning, and of its end, goes into its digest."""


def cached_arrays(key: str, make: Callable[[], Mapping[str, Array]]) -> dict[str, Array]:
    """Return arrays that are made the first time and read from the cache from then on.

    They are kept in `cache_folder` as ``<key>.npz``, uncompressed. A damaged file is made and written anew;
    where the folder cannot be written, the arrays are made every time.

    Args:
        key: Letters, digits, ``.``, ``_`` and ``-``. All that decides what ``make`` returns has to be in it:
            `digest_of` the files that it reads, and what its code does with them.
        make: Called where nothing usable is cached; returns at least one array, none of objects.

    Returns:
        The arrays by name, the same whether made or read.
    """
    assert re.fullmatch(r"[\w.-]+", key, re.ASCII), key
    path = cache_folder() / f"{key}.npz"
    arrays = _load(path)
    if not arrays:
        arrays = dict(make())
        _save(path, arrays)
    return arrays


def digest_of(*paths: Path) -> str:
    """Return 16 hexadecimal digits that change with the files' order, names, sizes, first or last megabyte.

    The middle of a large file is not read: archives and compressed files end with check sums of all of it.

    Raises:
        OSError: If a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest.update(f"{path.name}\0{size}\0".encode())
            file.seek(0)
            digest.update(file.read(_END_BYTES))
            file.seek(max(_END_BYTES, size - _END_BYTES))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Return the folder: ``$XDG_CACHE_HOME/codistill``, or ``~/.cache/codistill`` if that is unset."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codistill"


def _load(path: Path) -> dict[str, Array] | None:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as members:
            return {name.removesuffix(".npy"): _read(members, name) for name in members.namelist()}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _read(members: zipfile.ZipFile, name: str) -> Array:
    with members.open(name) as member:
        array: Array = np.lib.format.read_array(member, allow_pickle=False)
    return array


def _save(path: Path, arrays: Mapping[str, Array]) -> None:
    """Keep the arrays; several processes may do so at once, and readers see all or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as members:
            for name, array in arrays.items():
                with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        Path(partial).replace(path)
    except BaseException as e:
        Path(partial).unlink(missing_ok=True)
        if not isinstance(e, OSError):
            raise
