"""A store that fails when the test says so."""

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple, NoReturn, get_args

from typing_extensions import override

from codistill.errors import KeyMissingError, StoreError
from codistill.stores.base import Store

Verb = Literal["read", "write", "create", "delete", "list_names"]
_VERBS: Final[tuple[Verb, ...]] = get_args(Verb)


class Call(NamedTuple):
    """One call of a store's method."""

    verb: Verb
    """Which method."""
    key: str
    """Its key or prefix."""


@dataclass(slots=True, kw_only=True)
class _Fault:
    verbs: tuple[Verb, ...]
    key_contains: str
    times_left: int | None
    before: Callable[[Call], object] | None = None
    """Done before the call reaches the store; may wait, or raise."""
    alter: Callable[[bytes], bytes] | None = None
    """Given what a read returned, returns other bytes."""
    after: Callable[[Call], Exception] | None = None
    """Returns what to raise when the store has done what it was asked."""


@dataclass(slots=True)
class Faults:
    """A script of failures, each for so many calls of a verb whose key contains a text.

    Several may match one call: each counts it, they act in order, and the first that raises decides.

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
    _room_bytes: int | None = field(default=None, init=False)
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
        self._add([verb], times, key_contains, before=lambda call: _raise(error or _failure(call)))

    def go_away(self, *, times: int | None = None) -> None:
        """Let every call fail, as if the store could not be reached.

        Args:
            times: How many calls, >= 1; None until `clear`.
        """
        self._add(_VERBS, times, "", before=lambda call: _raise(_failure(call)))

    def delay(
        self, verb: Verb, wait: Callable[[], object], *, times: int | None = None, key_contains: str = ""
    ) -> None:
        """Let calls wait before they reach the store.

        Args:
            verb: Which method.
            wait: Returns when the call may go on, such as the ``wait`` of a ``threading.Event``.
            times: How many calls, >= 1; None until `clear`.
            key_contains: Only keys that contain this.
        """
        self._add([verb], times, key_contains, before=lambda _: wait())

    def lose_answer(self, verb: Verb, *, times: int | None = None, key_contains: str = "") -> None:
        """Let calls raise although the store has done all that it was asked.

        Args:
            verb: Which method.
            times: How many calls, >= 1; None until `clear`.
            key_contains: Only keys that contain this.
        """

        def make_error(call: Call) -> Exception:
            return StoreError(
                f"The test lets the answer to {call.verb} of {call.key!r} get lost.", key=call.key
            )

        self._add([verb], times, key_contains, after=make_error)

    def fill_up(self, *, after_bytes: int) -> None:
        """Let there be room for so many bytes more; what needs more than is left finds the disk full.

        What is deleted or replaced frees nothing: only `clear` does.

        Args:
            after_bytes: How many, >= 0.
        """
        if after_bytes < 0:
            raise ValueError(f"after_bytes must be >= 0, got {after_bytes}. 0 is full at once.")
        with self._lock:
            self._room_bytes = after_bytes

    def truncate(self, size_bytes: int, *, times: int | None = None, key_contains: str = "") -> None:
        """Let reads return at most their first `size_bytes` bytes."""
        self._add(["read"], times, key_contains, alter=lambda data: data[:size_bytes])

    def flip_bit(self, *, times: int | None = None, key_contains: str = "") -> None:
        """Let reads return bytes of which one, in the middle, has one bit changed."""
        self._add(["read"], times, key_contains, alter=_with_flipped_bit)

    def vanish(self, *, times: int | None = None, key_contains: str = "") -> None:
        """Let reads find nothing."""

        def make_error(call: Call) -> Exception:
            return KeyMissingError(f"The test lets {call.key!r} vanish.", key=call.key)

        self._add(["read"], times, key_contains, before=lambda call: _raise(make_error(call)))

    def clear(self) -> None:
        """Let nothing fail any more."""
        with self._lock:
            self._faults.clear()
            self._room_bytes = None

    def matching(self, call: Call) -> list[_Fault]:
        """Count a call; return what is to happen to it, in order."""
        with self._lock:
            matching = [
                fault for fault in self._faults if call.verb in fault.verbs and fault.key_contains in call.key
            ]
            for fault in matching:
                if fault.times_left is not None:
                    fault.times_left -= 1
            self._faults = [fault for fault in self._faults if fault.times_left != 0]
        return matching

    def take_room(self, key: str, size_bytes: int) -> None:
        """Count the bytes of a value; raise if there is no room for them.

        Args:
            key: Its key, for the message.
            size_bytes: How many.
        """
        with self._lock:
            if self._room_bytes is None:
                return
            if size_bytes > self._room_bytes:
                error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                message = f"The test's disk is full: there is no room for {key!r}."
                raise StoreError(message, key=key) from error
            self._room_bytes -= size_bytes

    def _add(
        self,
        verbs: Iterable[Verb],
        times: int | None,
        key_contains: str,
        *,
        before: Callable[[Call], object] | None = None,
        alter: Callable[[bytes], bytes] | None = None,
        after: Callable[[Call], Exception] | None = None,
    ) -> None:
        if times is not None and times < 1:
            raise ValueError(f"times must be >= 1, got {times}. Leave it out for always.")
        fault = _Fault(
            verbs=tuple(verbs),
            key_contains=key_contains,
            times_left=times,
            before=before,
            alter=alter,
            after=after,
        )
        with self._lock:
            self._faults.append(fault)


class FaultyStore(Store):
    """Wraps a store, fails by a script, and remembers every call.

    **Ranks**: any thread, as of the wrapped store.
    **Blocks**: as the wrapped store.
    **On failure**: a scripted failure of a write, create or delete leaves the wrapped store untouched, but
    for one whose answer gets lost.
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
        with self._calling("read", key) as faults:
            data = self._store.read(key, max_bytes=max_bytes, start=start)
        for fault in faults:
            data = data if fault.alter is None else fault.alter(data)
        return data

    @override
    def _write(self, key: str, content: bytes | memoryview | Path) -> None:
        with self._calling("write", key):
            self.faults.take_room(key, _size_of(content))
            self._store.write(key, content)

    @override
    def _create(self, key: str, content: bytes) -> bool:
        with self._calling("create", key):
            self.faults.take_room(key, len(content))
            return self._store.create(key, content)

    @override
    def _delete(self, key: str) -> None:
        with self._calling("delete", key):
            self._store.delete(key)

    @override
    def _sweep(self, prefix: str) -> None:
        self._store.sweep(prefix)

    @override
    def _list_names(self, prefix: str, *, limit: int) -> list[str]:
        with self._calling("list_names", prefix):
            return self._store.list_names(prefix, limit=limit)

    @contextmanager
    def _calling(self, verb: Verb, key: str) -> Iterator[list[_Fault]]:
        call = Call(verb, key)
        with self._lock:
            self._calls.append(call)
        faults = self.faults.matching(call)
        for fault in faults:
            if fault.before is not None:
                fault.before(call)
        yield faults
        for fault in faults:
            if fault.after is not None:
                raise fault.after(call)


def _failure(call: Call) -> StoreError:
    return StoreError(f"The test lets {call.verb} of {call.key!r} fail.", key=call.key)


def _raise(error: Exception) -> NoReturn:
    raise error


def _size_of(content: bytes | memoryview | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else memoryview(content).nbytes


def _with_flipped_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 1 for byte in data[middle : middle + 1]) + data[middle + 1 :]
