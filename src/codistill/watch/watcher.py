"""Looks at a store again and again."""

import threading
import time
from types import TracebackType
from typing import Final, Self, final

from codistill.errors import CodistillError
from codistill.exchange.checkpoint.waiting import Clock
from codistill.stores.base import Store
from codistill.watch.history import SILENT_AFTER_S, History
from codistill.watch.observation import observe
from codistill.watch.view import View

_PATIENCE_S: Final = 2.0
_PAUSE_S: Final = 1.0


@final
class Watcher:
    """Looks at a store at every interval, on a thread of its own, so that a store that hangs hides nothing.

    **Ranks**: none: any process, which need not take part in the run.
    **Blocks**: ``look`` while the store is read, ``look_until_settled`` for up to 15 s more; beginning and
    ending, 2 s at most; ``view`` does not.
    **On failure**: a store that cannot be read is said in the view, and looked at again. Any other error is
    raised by ``view``.

    Example:
        >>> from codistill.exchange.checkpoint.lives import open_run
        >>> from codistill.stores.memory import MemoryStore
        >>> store = MemoryStore()
        >>> _ = open_run(store)
        >>> watcher = Watcher(store, interval_s=2.0)
        >>> watcher.look()
        >>> watcher.view().peers
        ()
    """

    def __init__(self, store: Store, *, interval_s: float, clock: Clock = time) -> None:
        """Begin without having looked; as a context manager it looks by itself.

        Args:
            store: At what; stays open.
            interval_s: Seconds between two looks, > 0.
            clock: What tells the time.
        """
        self._store = store
        self._interval_s = interval_s
        self._clock = clock
        self._history = History(store.describe(), now_s=clock.monotonic())
        self._lock = threading.Lock()
        self._has_looked, self._end = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="codistill-watch", daemon=True)

    def look(self) -> None:
        """Look once, on this thread."""
        with self._lock:
            self._history.begin_look(now_s=self._clock.monotonic())
        try:
            observation = observe(self._store)
        except (CodistillError, OSError, ValueError) as error:
            with self._lock:
                self._history.fail(error)
        else:
            with self._lock:
                self._history.take(observation, now_s=self._clock.monotonic())

    def look_until_settled(self) -> View:
        """Look, on this thread, until of each peer it is known whether it lives; return what is known then.

        **Blocks**: one heartbeat, 5 s, if all that say so live; 15 s if one does not; not at all if none
        says so, or if the store cannot be read.
        """
        begin_s = self._clock.monotonic()
        while True:
            self.look()
            view = self.view()
            is_settled = view.away_s is not None or all(peer.is_settled for peer in view.peers)
            # A peer that came meanwhile is not waited for.
            if is_settled or self._clock.monotonic() - begin_s > SILENT_AFTER_S:
                return view
            self._clock.sleep(_PAUSE_S)

    def view(self) -> View:
        """Return what is known now."""
        if self._error is not None:
            raise self._error
        with self._lock:
            return self._history.view(now_s=self._clock.monotonic())

    def __enter__(self) -> Self:
        """Begin to look; a store that takes its time for the first look is not waited for."""
        self._thread.start()
        self._has_looked.wait(_PATIENCE_S)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Look no more; a look that hangs ends with the process."""
        self._end.set()
        self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        try:
            self.look()
            self._has_looked.set()
            while not self._end.wait(self._interval_s):
                self.look()
        except BaseException as error:  # noqa: BLE001 - raised again by view()
            self._error = error
            self._has_looked.set()
