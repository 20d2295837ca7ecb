"""Waiting for something to appear in a store."""

from collections.abc import Callable
from typing import Protocol, TypeVar

_FIRST_PAUSE_S = 0.0005
_LONGEST_PAUSE_S = 0.1
_GROWTH = 1.5

Found = TypeVar("Found")


class Clock(Protocol):
    """What of the ``time`` module is used; tests put a fake one in its place."""

    def monotonic(self) -> float:
        """Return seconds since some moment; never goes back."""

    def sleep(self, seconds: float, /) -> None:
        """Let ``seconds`` pass."""


def wait_until(attempt: Callable[[], Found | None], *, timeout_s: float, clock: Clock) -> Found | None:
    """Call ``attempt`` until it returns something, less and less often.

    **Blocks**: up to ``timeout_s`` seconds, and the duration of the last attempt.

    Returns:
        What ``attempt`` returned, or None when the time was over.
    """
    deadline = clock.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while (found := attempt()) is None:
        remaining_s = deadline - clock.monotonic()
        if remaining_s <= 0:
            return None
        clock.sleep(min(pause_s, remaining_s))
        pause_s = min(pause_s * _GROWTH, _LONGEST_PAUSE_S)
    return found
