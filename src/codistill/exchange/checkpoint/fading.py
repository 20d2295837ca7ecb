"""How much the predictions of an old snapshot count."""

from dataclasses import dataclass
from typing import Literal

WhenStale = Literal["fade", "drop", "keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fading:
    """What becomes of a teacher whose peer publishes nothing more."""

    max_age_steps: int
    """The age up to which a snapshot counts fully, in the student's own steps."""
    when_stale: WhenStale
    """"fade": its share falls from 1 to 0 over as many steps again; "drop": at once; "keep": never."""

    def share(self, age_steps: int, *, is_finished: bool) -> float:
        """Return how much a snapshot of that age counts, between 0 and 1.

        Args:
            age_steps: The student's steps since it first saw the snapshot.
            is_finished: Whether its peer's training is over: then it never gets old.

        Example:
            >>> fading = Fading(max_age_steps=100, when_stale="fade")
            >>> [fading.share(age, is_finished=False) for age in (100, 150, 200)]
            [1.0, 0.5, 0.0]
        """
        if age_steps <= self.max_age_steps or is_finished or self.when_stale == "keep":
            return 1.0
        if self.when_stale == "drop":
            return 0.0
        return max(0.0, 2.0 - age_steps / self.max_age_steps)

    def is_gone(self, age_steps: int) -> bool:
        """Return whether a snapshot of that age counts no more, unless it is a last one."""
        return self.share(age_steps, is_finished=False) == 0.0
