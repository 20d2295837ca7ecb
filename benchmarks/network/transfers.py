"""How long publishing and fetching take: threads with a stop-watch."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from typing_extensions import override

from codistill.exchange.checkpoint.background import Background, Job, Outcome, Threads, Worker


@dataclass(frozen=True, slots=True)
class Transfer:
    """A publish or a fetch."""

    name: str
    """"publish" or "fetch"."""
    begin_s: float
    """When it began, by the clock that all processes of a machine share."""
    seconds: float
    """How long it took."""
    is_done: bool
    """Whether it went well."""


@final
class TimedThreads(Background):
    """Threads that write down when each job of theirs began and ended."""

    def __init__(self) -> None:
        self._threads = Threads()
        self._workers: list[_TimedWorker] = []
        self._transfers: list[Transfer] = []

    @override
    def worker(self, name: str) -> Worker:
        self._workers.append(_TimedWorker(name, self._threads.worker(name), self._transfers.append))
        return self._workers[-1]

    @override
    def repeat(self, name: str, job: Job, period_s: float) -> None:
        self._threads.repeat(name, job, period_s)

    @override
    def stop(self, timeout_s: float) -> list[str]:
        return self._threads.stop(timeout_s)

    def settle(self, timeout_s: float) -> None:
        """Wait until nothing is under way but what is repeated."""
        for worker in self._workers:
            assert worker.wait(timeout_s), f"{worker.name} took longer than {timeout_s} s"

    def take(self) -> list[Transfer]:
        """Return the transfers since the last time."""
        taken = list(self._transfers)
        del self._transfers[: len(taken)]
        return taken


@final
class _TimedWorker(Worker):
    def __init__(self, name: str, worker: Worker, note: Callable[[Transfer], None]) -> None:
        self.name = name
        self._worker = worker
        self._note = note

    @property
    @override
    def is_idle(self) -> bool:
        return self._worker.is_idle

    @override
    def offer(self, job: Job) -> bool:
        return self._worker.offer(lambda: self._time(job))

    @override
    def take(self) -> Outcome | None:
        return self._worker.take()

    @override
    def wait(self, timeout_s: float) -> bool:
        return self._worker.wait(timeout_s)

    def _time(self, job: Job) -> Any:
        begin_s = time.monotonic()
        is_done = False
        try:
            result = job()
            is_done = True
            return result
        finally:
            self._note(Transfer(self.name, begin_s, time.monotonic() - begin_s, is_done))
