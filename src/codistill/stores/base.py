"""What every store promises."""

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from codistill.arguments import check_int

MAX_KEY_CHARACTERS: Final = 1024
_COUNTED = "It counts bytes or names."
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")


def check_key(key: str, argument: str = "key") -> str:
    """Return `key` if a store may use it.

    The rule leaves no room for ``..``, absolute paths, hidden files or empty parts, so that no key
    reaches outside its store, whatever the backend.

    Args:
        key: Parts of letters, digits and ``. _ -``, each beginning with a letter or digit, joined
            by ``/``; at most 1024 characters.
        argument: What to call it in the error.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it breaks the rule.

    Example:
        >>> check_key("a/latest.json")
        'a/latest.json'
    """
    if not isinstance(key, str):
        raise TypeError(f"{argument} must be a string, got {type(key).__name__}.")
    if len(key) > MAX_KEY_CHARACTERS:
        raise ValueError(
            f"{argument} must have at most {MAX_KEY_CHARACTERS} characters, got {len(key)}. "
            "Use shorter names."
        )
    if _KEY.fullmatch(key) is None:
        raise ValueError(
            f"{argument} must be parts of letters, digits, '.', '_' and '-' joined by '/', each part "
            f"beginning with a letter or digit, got {key!r}. Rename it."
        )
    return key


class Store(ABC):
    """Bytes under keys, shared by all peers of a run.

    A subclass implements the five methods that begin with an underscore; it may rely on their
    arguments having been checked, and raises `codistill.errors.StoreError` with the key for whatever
    its backend refuses. A key is either a value or a folder of keys, not both.

    **Ranks**: any rank, any thread, any process; methods may run at the same time.
    **Blocks**: every method, as long as the backend takes.
    **On failure**: a call that raises has either done all it was asked or nothing, and may be repeated.
    """

    def read(self, key: str, *, max_bytes: int, start: int = 0) -> bytes:
        """Return part of a value, as ``pread`` does.

        Args:
            key: What to read.
            max_bytes: Return at most so many bytes, >= 1.
            start: First byte, >= 0.

        Returns:
            The bytes from `start` on; fewer than `max_bytes` at the end, none beyond it.

        Raises:
            KeyMissingError: If nothing is stored under the key.
            StoreError: If the backend refuses.
        """
        check_key(key)
        check_int("max_bytes", max_bytes, minimum=1, hint=_COUNTED)
        check_int("start", start, minimum=0, hint=_COUNTED)
        return self._read(key, max_bytes=max_bytes, start=start)

    def read_into(self, key: str, buffer: memoryview, *, start: int = 0) -> int:
        """Read part of a value into memory of the caller's, which saves a copy where the backend can.

        Args:
            key: What to read.
            buffer: Where to; writable bytes, at least one.
            start: First byte, >= 0.

        Returns:
            How many bytes were read; fewer than the buffer has at the end of the value.

        Raises:
            KeyMissingError: If nothing is stored under the key.
            StoreError: If the backend refuses.
        """
        check_key(key)
        check_int("start", start, minimum=0, hint=_COUNTED)
        if not isinstance(buffer, memoryview) or buffer.readonly or buffer.format != "B" or not buffer.nbytes:
            raise TypeError("buffer must be a writable memoryview of bytes that is not empty.")
        return self._read_into(key, buffer, start=start)

    def write(self, key: str, content: bytes | memoryview | Path) -> None:
        """Store a value, in place of the former one if there is one.

        A reader at the same time sees the old value or the new one, never part of it. (Two reads of
        one value may see both: whoever reads in pieces compares digests.)

        Args:
            key: Where to store it.
            content: The bytes, or a file that holds them; the file stays.

        Raises:
            FileNotFoundError: If `content` is a file that does not exist.
            StoreError: If the backend refuses; the former value is then still there.
        """
        check_key(key)
        if not isinstance(content, bytes | memoryview | Path):
            raise TypeError(
                f"content must be bytes, a memoryview or a pathlib.Path, got {type(content).__name__}."
            )
        self._write(key, content)

    def create(self, key: str, content: bytes) -> bool:
        """Store a value only if there is none: of many callers exactly one succeeds.

        Args:
            key: Where to store it.
            content: The bytes.

        Returns:
            Whether this call stored it; False if there was a value, which stays as it is.

        Raises:
            StoreError: If the backend refuses, or cannot do this atomically.
        """
        check_key(key)
        if not isinstance(content, bytes):
            raise TypeError(f"content must be bytes, got {type(content).__name__}.")
        return self._create(key, content)

    def delete(self, key: str) -> None:
        """Remove a value; a key without one is no error.

        Raises:
            StoreError: If the backend refuses.
        """
        check_key(key)
        self._delete(key)

    def list_names(self, prefix: str, *, limit: int) -> list[str]:
        """Return the names one level below a folder: of values, and of folders that hold some.

        Args:
            prefix: The folder, without a slash at the end; the empty string is the root.
            limit: Return at most so many names, >= 1.

        Returns:
            The first names in sorted order; none if there is no such folder.

        Raises:
            StoreError: If the backend refuses.
        """
        if prefix != "":
            check_key(prefix, "prefix")
        check_int("limit", limit, minimum=1, hint=_COUNTED)
        return self._list_names(prefix, limit=limit)

    def sweep(self, prefix: str) -> None:
        """Remove what killed writes have left in and below a folder, if the backend leaves anything.

        For whoever alone writes there: a write of somebody else's that is under way would fail.

        Args:
            prefix: The folder, without a slash at the end.

        Raises:
            StoreError: If the backend refuses.
        """
        check_key(prefix, "prefix")
        self._sweep(prefix)

    def _sweep(self, prefix: str) -> None:  # noqa: B027 - most backends leave nothing
        """Remove the leftovers; a subclass that writes to temporary places overrides it."""

    def close(self) -> None:  # noqa: B027 - most stores have none to let go
        """Let connections go, if there are any; the store may be used again."""

    def _read_into(self, key: str, buffer: memoryview, *, start: int) -> int:
        content = self._read(key, max_bytes=buffer.nbytes, start=start)
        buffer[: len(content)] = content
        return len(content)

    @abstractmethod
    def describe(self) -> str:
        """Return where this is, for messages: a path or URL without credentials."""

    @abstractmethod
    def _read(self, key: str, *, max_bytes: int, start: int) -> bytes: ...

    @abstractmethod
    def _write(self, key: str, content: bytes | memoryview | Path) -> None: ...

    @abstractmethod
    def _create(self, key: str, content: bytes) -> bool: ...

    @abstractmethod
    def _delete(self, key: str) -> None: ...

    @abstractmethod
    def _list_names(self, prefix: str, *, limit: int) -> list[str]: ...
