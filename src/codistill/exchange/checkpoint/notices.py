"""Warnings that are given once."""

import warnings
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from codistill.errors import CodistillWarning, StoreError


class Notices:
    """Says each thing once, until it has passed."""

    def __init__(self) -> None:
        self._said: set[Hashable] = set()

    def say(self, subject: Hashable, message: str) -> None:
        """Warn with ``message``, unless something about ``subject`` has been said and has not passed."""
        if subject not in self._said:
            self._said.add(subject)
            warnings.warn(message, CodistillWarning, stacklevel=2)

    def has_passed(self, subject: Hashable) -> None:
        """Allow a new warning about ``subject``: what was wrong is so no more."""
        self._said.discard(subject)

    @contextmanager
    def instead_of_store_errors(self, subject: Hashable) -> Iterator[None]:
        """Warn about a ``StoreError`` in the block and go on."""
        try:
            yield
        except StoreError as error:
            self.say(subject, f"{error} Training goes on without, and tries again at the next interval.")
        else:
            self.has_passed(subject)
