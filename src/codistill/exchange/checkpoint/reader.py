"""What lockstep and running free have in common: looking for the teachers' snapshots."""

from abc import ABC, abstractmethod

from codistill.exchange.checkpoint.sighting import Look, Sighting


class Reader(ABC):
    """Finds the snapshots that a student is to learn from now, and reads them whole.

    **Ranks**: rank 0, any one thread at a time. It changes nothing of the student or its teachers.
    """

    @abstractmethod
    def look(self, look: Look) -> Sighting:
        """Return what there is.

        Args:
            look: What the student knows.
        """
