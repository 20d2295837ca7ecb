"""A store that fails when the test says so."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from typing_extensions import override

from codistill.errors import KeyMissingError, StoreError
from codistill.stores.base import Store

Verb = Literal["read", "write", "create", "delete", "list_names"]


class Call(NamedTuple):
    """One call of a store's method."""

    verb: Verb
    """Which method."""
    key: str
    """Its key or prefix."""


@dataclass(slots=True, kw_only=True)
class _Fault:
    verb: Verb
    key_contains: str
    times_left: int | None
    error: Callable[[str], Exception] | None = None
    """Given the key, returns what to raise."""
    alter: Callable[[bytes], bytes] | None = None
    """Given what a read returned, returns other bytes."""


@dataclass(slots=True)
class Faults:
    """A script of failures, each for so many calls of a verb whose key contains a text.

    Several may match one call: each counts it, the first that fails it decides, the others alter in order.

    Example:
        >>> from codistill.stores.memory import MemoryStore
        >>> faults = Faults()
        >>> faults.fail("write", times=1, key_contains="latest")
        >>> store = FaultyStore(MemoryStore(), faults)
        >>> store.write("a/latest.json", b"{}")
        Traceback (most recent call last):
        codistill.errors.StoreError: The test lets write of 'a/latest.json' fail.
        >>> store.write("a/latest.json", b"{}")
    """

    _faults: list[_Fault] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def fail(
        self, verb: Verb, *, times: int | None = None, key_contains: str = "", error: Exception | None = None
    ) -> None:
        """Let calls raise before they reach the store.

        Args:
            verb: Which method.
            times: How many calls, >= 1; None until `clear`.
            key_contains: Only keys that contain this.
            error: What to raise instead of a `StoreError`.
        """

        def make_error(key: str) -> Exception:
            return error or StoreError(f"The test lets {verb} of {key!r} fail.", key=key)

        self._add(_Fault(verb=verb, key_contains=key_contains, times_left=times, error=make_error))

    def truncate(self, size_bytes: int, *, times: int | None = None, key_contains: str = "") -> None:
        """Let reads return at most their first `size_bytes` bytes."""

        def alter(data: bytes) -> bytes:
            return data[:size_bytes]

        self._add(_Fault(verb="read", key_contains=key_contains, times_left=times, alter=alter))

    def flip_bit(self, *, times: int | None = None, key_contains: str = "") -> None:
        """Let reads return bytes of which one, in the middle, has one bit changed."""
        self._add(_Fault(verb="read", key_contains=key_contains, times_left=times, alter=_with_flipped_bit))

    def vanish(self, *, times: int | None = None, key_contains: str = "") -> None:
        """Let reads find nothing."""

        def make_error(key: str) -> Exception:
            return KeyMissingError(f"The test lets {key!r} vanish.", key=key)

        self._add(_Fault(verb="read", key_contains=key_contains, times_left=times, error=make_error))

    def clear(self) -> None:
        """Let nothing fail any more."""
        with self._lock:
            self._faults.clear()

    def begin(self, verb: Verb, key: str) -> list[Callable[[bytes], bytes]]:
        """Count a call; raise if it shall fail.

        Args:
            verb: Which method is called.
            key: With which key or prefix.

        Returns:
            What to do to the bytes that the call returns, in order.
        """
        with self._lock:
            matching = [fault for fault in self._faults if fault.verb == verb and fault.key_contains in key]
            for fault in matching:
                if fault.times_left is not None:
                    fault.times_left -= 1
            self._faults = [fault for fault in self._faults if fault.times_left != 0]
        for fault in matching:
            if fault.error is not None:
                raise fault.error(key)
        return [fault.alter for fault in matching if fault.alter is not None]

    def _add(self, fault: _Fault) -> None:
        if fault.times_left is not None and fault.times_left < 1:
            raise ValueError(f"times must be >= 1, got {fault.times_left}. Leave it out for always.")
        with self._lock:
            self._faults.append(fault)


class FaultyStore(Store):
    """Wraps a store, fails by a script, and remembers every call.

    **Ranks**: any thread, as of the wrapped store.
    **Blocks**: as the wrapped store.
    **On failure**: a scripted failure of a write, create or delete leaves the wrapped store untouched.
    """

    def __init__(self, store: Store, faults: Faults | None = None) -> None:
        """Wrap a store.

        Args:
            store: Where the calls go that do not fail.
            faults: The script; None for an empty one. It may grow while the store is in use.
        """
        self.faults = Faults() if faults is None else faults
        self._store = store
        self._calls: list[Call] = []
        self._lock = threading.Lock()

    @property
    def calls(self) -> list[Call]:
        """Every call so far, those that failed too, in order."""
        with self._lock:
            return list(self._calls)

    def count(self, verb: Verb, *, key_contains: str = "") -> int:
        """Return how many calls of a method there were with such a key."""
        return sum(call.verb == verb and key_contains in call.key for call in self.calls)

    @override
    def describe(self) -> str:
        return f"{self._store.describe()} (with scripted faults)"

    @override
    def _read(self, key: str, *, max_bytes: int, start: int) -> bytes:
        alterations = self._begin("read", key)
        data = self._store.read(key, max_bytes=max_bytes, start=start)
        for alter in alterations:
            data = alter(data)
        return data

    @override
    def _write(self, key: str, content: bytes | memoryview | Path) -> None:
        self._begin("write", key)
        self._store.write(key, content)

    @override
    def _create(self, key: str, content: bytes) -> bool:
        self._begin("create", key)
        return self._store.create(key, content)

    @override
    def _delete(self, key: str) -> None:
        self._begin("delete", key)
        self._store.delete(key)

    @override
    def _list_names(self, prefix: str, *, limit: int) -> list[str]:
        self._begin("list_names", prefix)
        return self._store.list_names(prefix, limit=limit)

    def _begin(self, verb: Verb, key: str) -> list[Callable[[bytes], bytes]]:
        with self._lock:
            self._calls.append(Call(verb, key))
        return self.faults.begin(verb, key)


def _with_flipped_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 1 for byte in data[middle : middle + 1]) + data[middle + 1 :]
