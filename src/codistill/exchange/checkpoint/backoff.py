"""Giving a store time to recover."""

from typing import Final, final

_MOST_SKIPPED: Final = 3


@final
class Backoff:
    """After failures in a row, lets 0, 1, then 3 intervals pass before the next attempt.

    Example:
        >>> backoff = Backoff()
        >>> backoff.note_failure(), backoff.note_failure()
        (None, None)
        >>> backoff.is_due(), backoff.is_due()
        (False, True)
    """

    def __init__(self) -> None:
        self._failures = 0
        self._to_skip = 0

    def is_due(self) -> bool:
        """Return whether to try at this interval; asked once an interval."""
        if self._to_skip > 0:
            self._to_skip -= 1
            return False
        return True

    def note_failure(self) -> None:
        """Note that an attempt failed."""
        self._failures += 1
        self._to_skip = min(2 ** (self._failures - 1) - 1, _MOST_SKIPPED)

    def note_success(self) -> None:
        """Note that an attempt went well."""
        self._failures = 0
