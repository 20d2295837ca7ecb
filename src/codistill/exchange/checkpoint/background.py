"""Work that goes on while the student trains."""

import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from typing_extensions import override

Job = Callable[[], Any]

# What a thread may take to end when the interpreter does; a store that hangs must not hold it up.
_EXIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job came to."""

    result: Any = None
    """What it returned."""
    error: BaseException | None = None
    """What it raised instead."""

    @classmethod
    def of(cls, job: Job) -> "Outcome":
        """Run a job."""
        try:
            return cls(result=job())
        except BaseException as error:  # noqa: BLE001 - raised again where the outcome is taken
            return cls(error=error)


class Worker(ABC):
    """Does one job at a time, in the order they are offered."""

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Whether a job that is offered would begin: none is under way, no outcome waits to be taken."""

    @abstractmethod
    def offer(self, job: Job) -> bool:
        """Begin a job, unless the one before is not done or its outcome not taken; return whether it did."""

    @abstractmethod
    def take(self) -> Outcome | None:
        """Return what the job came to, once; None while there is none or it is not done."""

    @abstractmethod
    def wait(self, timeout_s: float) -> bool:
        """Wait until no job is under way; return whether that is so."""


class Background(ABC):
    """Where an exchange has its work done that does not concern the student."""

    @abstractmethod
    def worker(self, name: str) -> Worker:
        """Return a new worker."""

    @abstractmethod
    def repeat(self, name: str, job: Job, period_s: float) -> None:
        """Do a job every so many seconds until ``stop``; what it raises ends it."""

    @abstractmethod
    def stop(self, timeout_s: float) -> list[str]:
        """End everything; return the names of what did not end in time."""


@final
class Threads(Background):
    """A thread for each worker and each repeated job.

    They do input and output only, no collective and nothing on a device. They end with ``stop``, when
    this object is collected, and when the interpreter exits; then they are given five seconds. A process
    that was forked off has none of them.

    **Ranks**: of one process; a child after a fork must not use its parent's.
    **Blocks**: ``stop``, up to its timeout.
    **On failure**: what a job raises is its outcome.
    """

    def __init__(self) -> None:
        self._threads: list[_Thread] = []
        # Also when nobody calls stop. It must not refer to self, which would then live for ever.
        weakref.finalize(self, _end, self._threads, os.getpid(), _EXIT_S)

    @override
    def worker(self, name: str) -> Worker:
        thread = _WorkerThread(name)
        self._threads.append(thread)
        return thread

    @override
    def repeat(self, name: str, job: Job, period_s: float) -> None:
        thread = _RepeatingThread(name, job, period_s)
        self._threads.append(thread)
        thread.start()

    @override
    def stop(self, timeout_s: float) -> list[str]:
        return _end(self._threads, os.getpid(), timeout_s)


class _Thread(ABC):
    """A thread that can be asked to end.

    A daemon: an interpreter that exits asks it to end, and does not wait for ever.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread = threading.Thread(target=self._run, name=f"codistill-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @abstractmethod
    def ask_to_end(self) -> None: ...

    def join(self, timeout_s: float) -> bool:
        """Return whether the thread has ended."""
        # The collector may run in this very thread.
        if self._thread.ident is None or self._thread is threading.current_thread():
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @abstractmethod
    def _run(self) -> None: ...


class _WorkerThread(_Thread, Worker):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._changed = threading.Condition()
        self._job: Job | None = None
        self._outcome: Outcome | None = None
        self._is_ending = False

    @property
    @override
    def is_idle(self) -> bool:
        with self._changed:
            return self._job is None and self._outcome is None and not self._is_ending

    @override
    def offer(self, job: Job) -> bool:
        with self._changed:
            if self._job is not None or self._outcome is not None or self._is_ending:
                return False
            self._job = job
            self._changed.notify_all()
        if self._thread.ident is None:
            self.start()
        return True

    @override
    def take(self) -> Outcome | None:
        with self._changed:
            outcome, self._outcome = self._outcome, None
            return outcome

    @override
    def wait(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._job is None, timeout_s)

    @override
    def ask_to_end(self) -> None:
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()

    @override
    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._job is not None or self._is_ending)
                job = self._job
                if job is None:
                    return
            outcome = Outcome.of(job)
            # Nothing of the job may outlive it: it holds weights.
            del job
            with self._changed:
                self._job, self._outcome = None, outcome
                del outcome
                self._changed.notify_all()


class _RepeatingThread(_Thread):
    def __init__(self, name: str, job: Job, period_s: float) -> None:
        super().__init__(name)
        self._job = job
        self._period_s = period_s
        self._end = threading.Event()

    @override
    def ask_to_end(self) -> None:
        self._end.set()

    @override
    def _run(self) -> None:
        while not self._end.wait(self._period_s):
            self._job()


def _end(threads: list[_Thread], process: int, timeout_s: float) -> list[str]:
    # After a fork the child has copies of these objects, whose locks nobody will ever release.
    if os.getpid() != process:
        return []
    for thread in threads:
        thread.ask_to_end()
    deadline_s = time.monotonic() + timeout_s
    stuck = [thread.name for thread in threads if not thread.join(max(0.0, deadline_s - time.monotonic()))]
    threads.clear()
    return stuck
