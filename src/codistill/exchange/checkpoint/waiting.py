"""Waiting for something to appear in a store."""

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

_FIRST_PAUSE_S = 0.0005
_LONGEST_PAUSE_S = 0.1
_GROWTH = 1.5
_LONG_S: Final = 5.0

Found = TypeVar("Found")


class Clock(Protocol):
    """What of the ``time`` module is used; tests put a fake one in its place."""

    def monotonic(self) -> float:
        """Return seconds since some moment; never goes back."""

    def sleep(self, seconds: float, /) -> None:
        """Let ``seconds`` pass."""


def wait_until(
    attempt: Callable[[], Found | None],
    *,
    timeout_s: float,
    clock: Clock,
    on_long_wait: Callable[[float], None] | None = None,
) -> Found | None:
    """Call ``attempt`` until it returns something, less and less often.

    **Blocks**: up to ``timeout_s`` seconds, and the duration of the last attempt.

    Args:
        attempt: Returns what is waited for, or None.
        timeout_s: For how long.
        clock: To wait by.
        on_long_wait: Called once, with the seconds so far, if it lasts longer than whoever watches stays at
            ease: five seconds.

    Returns:
        What ``attempt`` returned, or None when the time was over.
    """
    start = clock.monotonic()
    pause_s = _FIRST_PAUSE_S
    while (found := attempt()) is None:
        waited_s = clock.monotonic() - start
        if waited_s >= timeout_s:
            return None
        if on_long_wait is not None and waited_s >= _LONG_S:
            on_long_wait(waited_s)
            on_long_wait = None
        clock.sleep(min(pause_s, timeout_s - waited_s))
        pause_s = min(pause_s * _GROWTH, _LONGEST_PAUSE_S)
    return found
