"""A clock that moves only when it is told to."""

import threading


class FakeClock:
    """Stands in for the ``time`` module where code asks for ``monotonic()`` and ``sleep()``.

    ``sleep`` returns at once and moves the clock, so that a wait with a timeout ends as soon as it
    has slept often enough. Threads that wait for one another need the real clock: with this one the
    first to wait may run into its timeout before the other gets to run.

    Example:
        >>> clock = FakeClock()
        >>> clock.sleep(5.0)
        >>> clock.monotonic(), clock.sleeps
        (5.0, [5.0])
    """

    def __init__(self, start_s: float = 0.0) -> None:
        """Start the clock.

        Args:
            start_s: What it shows first.
        """
        self._now_s = start_s
        self._sleeps: list[float] = []
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """Return the time, in seconds."""
        with self._lock:
            return self._now_s

    def sleep(self, seconds: float) -> None:
        """Move the clock on, and remember by how much.

        Args:
            seconds: >= 0.

        Raises:
            ValueError: If it is negative, as of ``time.sleep``.
        """
        if seconds < 0:
            raise ValueError(f"seconds must be >= 0, got {seconds}.")
        with self._lock:
            self._now_s += seconds
            self._sleeps.append(seconds)

    def advance(self, seconds: float) -> None:
        """Move the clock on without anybody having slept.

        Args:
            seconds: >= 0: it is a monotonic clock.

        Raises:
            ValueError: If it is negative.
        """
        if seconds < 0:
            raise ValueError(f"seconds must be >= 0, got {seconds}.")
        with self._lock:
            self._now_s += seconds

    @property
    def sleeps(self) -> list[float]:
        """What ``sleep`` was called with so far, in order."""
        with self._lock:
            return list(self._sleeps)
