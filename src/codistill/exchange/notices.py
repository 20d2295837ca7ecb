"""Warnings that are given once."""

import sys
import warnings
from collections.abc import Hashable

from codistill.errors import CodistillWarning

# Frames between a warning and the line of the user's that it should point to.
_NOT_THE_CALLER = ("codistill.",)


class Notices:
    """Says each thing once, until it has passed."""

    def __init__(self) -> None:
        self._said: set[Hashable] = set()
        self._out_of_order: set[Hashable] = set()

    def say(self, subject: Hashable, message: str) -> None:
        """Warn with ``message``, unless something about ``subject`` has been said and has not passed."""
        if subject not in self._said:
            self._said.add(subject)
            warnings.warn(message, CodistillWarning, stacklevel=_depth_of_caller())

    def has_passed(self, subject: Hashable) -> None:
        """Allow a new warning about ``subject``: what was wrong is so no more."""
        self._said.discard(subject)

    def store_failed(self, doing: Hashable, message: str) -> None:
        """Warn that the store hindered ``doing``: once an outage, whatever else it hinders."""
        self._out_of_order.add(doing)
        self.say("store", message)

    def store_works(self, doing: Hashable) -> None:
        """Note that ``doing`` went well; when all that failed has, the outage is over."""
        self._out_of_order.discard(doing)
        if not self._out_of_order:
            self.has_passed("store")


def _depth_of_caller() -> int:
    """Return the ``stacklevel`` of the first caller that is not of this library."""
    depth, frame = 0, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_NOT_THE_CALLER):
        depth, frame = depth + 1, frame.f_back
    return depth
