"""What lockstep and running free have in common: bringing the teachers up to date."""

from abc import ABC, abstractmethod


class Reader(ABC):
    """Gives the teachers the snapshots that a student is to learn from now."""

    @abstractmethod
    def meet(self, step: int) -> None:
        """Find the teachers at the start of this life, waiting for them if that was asked for.

        Args:
            step: The student's step.
        """

    @abstractmethod
    def update(self, step: int) -> None:
        """Bring the teachers up to date, at the end of an interval.

        Args:
            step: The student's step.
        """
