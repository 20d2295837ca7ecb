"""A store in the memory of one process."""

import heapq
import threading
from pathlib import Path

from typing_extensions import override

from codistill.errors import KeyMissingError
from codistill.stores.base import Store


class MemoryStore(Store):
    """Keeps values in a dictionary, for peers that are threads of one process, and for tests.

    **Ranks**: threads of this process only; another process never sees the values.
    **Blocks**: no.
    **On failure**: nothing can fail but a missing key; values are gone when the process ends.

    Example:
        >>> store = MemoryStore()
        >>> store.write("a/status.json", b"{}")
        >>> store.list_names("a", limit=10)
        ['status.json']
    """

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @override
    def describe(self) -> str:
        return "the memory of this process"

    @override
    def _read(self, key: str, *, max_bytes: int, start: int) -> bytes:
        with self._lock:
            value = self._values.get(key)
        if value is None:
            raise KeyMissingError(f"Nothing is stored under {key!r} in {self.describe()}.", key=key)
        return value[start : start + max_bytes]

    @override
    def _write(self, key: str, content: bytes | memoryview | Path) -> None:
        value = content.read_bytes() if isinstance(content, Path) else bytes(content)
        with self._lock:
            self._values[key] = value

    @override
    def _create(self, key: str, content: bytes) -> bool:
        with self._lock:
            if key in self._values:
                return False
            self._values[key] = content
            return True

    @override
    def _delete(self, key: str) -> None:
        with self._lock:
            self._values.pop(key, None)

    @override
    def _list_names(self, prefix: str, *, limit: int) -> list[str]:
        folder = f"{prefix}/" if prefix else ""
        with self._lock:
            names = {key[len(folder) :].split("/", 1)[0] for key in self._values if key.startswith(folder)}
        return heapq.nsmallest(limit, names)
