"""From what a user writes to a store."""

import os
import re
from urllib.parse import unquote, urlsplit

from codistill.stores.base import Store
from codistill.stores.directory import DirectoryStore

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_store(store: str | os.PathLike[str] | Store, *, is_read_only: bool = False) -> Store:
    """Return the store that a path or URL names, or the store itself.

    Args:
        store: A path, a ``file://`` URL, or a `Store`, which is returned as it is.
        is_read_only: Only look: a folder that is not there is an error, and is not made.

    Raises:
        TypeError: If it is none of these.
        ValueError: If it is empty, or a URL of another kind.
        StoreError: If the folder cannot be made or written to, or is not there to be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     open_store(f"file://{folder}").describe() == folder
        True
    """
    if isinstance(store, Store):
        return store
    if not isinstance(store, str | os.PathLike):
        raise TypeError(f"store must be a path, a URL or a Store, got {type(store).__name__}.")
    path = os.fspath(store)
    if not isinstance(path, str):
        raise TypeError("store must be a path of characters, got one of bytes. Decode it with os.fsdecode.")
    if not path:
        raise ValueError("store must name a folder, got ''. Use '.' for the working directory.")
    scheme = _SCHEME.match(path)
    folder = path if scheme is None else _path_of_url(path, scheme[1].lower())
    return DirectoryStore(folder, is_read_only=is_read_only)


def _path_of_url(url: str, scheme: str) -> str:
    # The URL itself stays out of the messages: it may hold credentials.
    if scheme != "file":
        raise ValueError(
            f"store must be a path or a Store, got a '{scheme}://' URL. This version stores snapshots in "
            "directories only: give a path that all peers see."
        )
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise ValueError(
            "store must be 'file:///' and an absolute path, got another host. Give a plain path."
        )
    return unquote(parts.path)
