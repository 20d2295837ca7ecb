"""Which teachers are not listened to because they have gone bad."""

from collections.abc import Mapping
from typing import final

from codistill.exchange.base import TeacherInfo

# DESIGN: over twice the student's task loss and worse by 0.1, for three intervals.
_FACTOR = 2.0
_MARGIN = 0.1
_INTERVALS = 3


def is_worse(teacher_loss: float | None, own_loss: float | None) -> bool:
    """Return whether a peer's task loss is so far above the student's that it has little to teach.

    Over twice as high, and higher by 0.1. Unknown losses and such as may be negative (log densities) say
    nothing.

    Example:
        >>> is_worse(2.5, 1.0), is_worse(0.09, 0.01), is_worse(2.5, None)
        (True, False, False)
    """
    if teacher_loss is None or own_loss is None or teacher_loss <= 0.0 or own_loss <= 0.0:
        return False
    return teacher_loss > _FACTOR * own_loss and teacher_loss > own_loss + _MARGIN


@final
class Quarantine:
    """Counts for how many intervals a teacher has been bad, and keeps those apart that were so for three."""

    def __init__(self) -> None:
        self._bad_intervals: dict[str, int] = {}
        self._reasons: dict[str, str] = {}

    @property
    def peers(self) -> frozenset[str]:
        """Who is in it."""
        return frozenset(self._reasons)

    def judge(self, teachers: Mapping[str, TeacherInfo], own_loss: float | None) -> dict[str, str]:
        """Look at all teachers at the end of an interval; return who is new in quarantine, and why.

        Args:
            teachers: By peer.
            own_loss: The student's mean task loss over the interval.
        """
        new = {}
        for peer, info in teachers.items():
            bad = self._bad_intervals.get(peer, 0) + 1 if is_worse(info.task_loss, own_loss) else 0
            self._bad_intervals[peer] = bad
            if bad >= _INTERVALS and peer not in self._reasons:
                new[peer] = (
                    f"the task loss of its last snapshot, {info.task_loss:.3g}, has been over twice this "
                    f"peer's, {own_loss:.3g}, for {_INTERVALS} intervals (age: {info.age_steps:,} steps)"
                )
        self._reasons.update(new)
        return new

    def put(self, peer: str, reason: str) -> bool:
        """Put a peer in at once; return whether it is new there."""
        is_new = peer not in self._reasons
        self._reasons.setdefault(peer, reason)
        return is_new

    def let_out(self, peer: str) -> bool:
        """Let a peer out, which has published a good snapshot; return whether it was in."""
        # Who is not in it is judged by what the teacher holds, at every interval.
        if self._reasons.pop(peer, None) is None:
            return False
        self._bad_intervals.pop(peer, None)
        return True
