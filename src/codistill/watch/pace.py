"""How fast a counter goes that is only seen now and then."""

from collections import deque
from typing import Final, final

_CHANGES: Final = 9
_OVERDUE: Final = 2.0


@final
class Pace:
    """Steps a second over the last eight changes of a counter.

    Peers tell their step at every interval, not at every step. So only the moments at which it changed
    count: at the first look nobody knows how long it has been what it is. When the next change is overdue, by
    more than the usual time between two, the pace falls.

    Example:
        >>> pace = Pace()
        >>> for now_s, step in ((0.0, 0), (5.0, 50), (10.0, 100), (15.0, 100)):
        ...     pace.see(step, now_s=now_s)
        >>> pace.steps_per_s(now_s=15.0), pace.steps_per_s(now_s=25.0)
        (10.0, 5.0)
    """

    def __init__(self) -> None:
        self._step: int | None = None
        self._changes: deque[tuple[float, int]] = deque(maxlen=_CHANGES)

    def see(self, step: int, *, now_s: float) -> None:
        """Note what the counter shows; one that goes back begins anew.

        Args:
            step: The counter.
            now_s: When, in seconds, by a clock that never goes back.
        """
        if self._step is not None and step > self._step:
            self._changes.append((now_s, step))
        elif self._step is not None and step < self._step:
            self._changes.clear()
        self._step = step

    def steps_per_s(self, *, now_s: float) -> float | None:
        """Return the pace, None before two changes were seen.

        Args:
            now_s: When it is asked for, in seconds.
        """
        if len(self._changes) < 2:
            return None
        (begin_s, begin), (end_s, end) = self._changes[0], self._changes[-1]
        if end_s <= begin_s:
            return None
        usual_s = (end_s - begin_s) / (len(self._changes) - 1)
        overdue_s = max(0.0, now_s - end_s - _OVERDUE * usual_s)
        return (end - begin) / (end_s - begin_s + overdue_s)
