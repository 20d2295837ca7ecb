"""Warnings that are given once."""

from collections.abc import Hashable

from codistill.caller import warn_caller


class Notices:
    """Says each thing once, until it has passed."""

    def __init__(self) -> None:
        self._said: set[Hashable] = set()
        self._out_of_order: set[Hashable] = set()

    def say(self, subject: Hashable, message: str) -> None:
        """Warn with ``message``, unless something about ``subject`` has been said and has not passed."""
        if subject not in self._said:
            self._said.add(subject)
            warn_caller(message)

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
