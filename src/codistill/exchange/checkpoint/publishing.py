"""How snapshots of a peer come into the store while it trains."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, final

from codistill.errors import StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.background import Worker

FOR_EVER_S: Final = 86_400.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What became of a snapshot."""

    has_failed: bool = False
    """Whether the store has failed on some rank."""
    bytes_written: int = 0
    """What this rank wrote of it; 0 also if a later life has taken the peer's name."""
    error: StoreError | None = None
    """On rank 0, what has failed."""


class Publishing(ABC):
    """Publishes one snapshot at a time, beside the training.

    **Ranks**: all of the peer, every method but ``poll``, ``is_waiting`` and ``wait`` at the same step.
    **Blocks**: ``begin`` for one copy of the weights; ``publish_now`` and ``finish`` until it is done.
    **On failure**: a store that fails stands in what is returned; any other error is raised.
    """

    def __init__(self, worker: Worker) -> None:
        """Begin with nothing published.

        Args:
            worker: Does the writing.
        """
        self._worker = worker

    is_collective: bool = False
    """Whether all ranks have to come to an end together."""

    @property
    @abstractmethod
    def is_under_way(self) -> bool:
        """Whether a snapshot has been begun and has not become anything yet."""

    @abstractmethod
    def begin(self, progress: Progress, *, finished: bool = False) -> None:
        """Copy the weights as they are now, and begin to write them.

        Args:
            progress: How far the student is.
            finished: No other will follow.
        """

    def poll(self) -> Published | None:
        """Return what became of a snapshot, once, if this rank knows that without the others."""
        return None

    @property
    def is_waiting(self) -> bool:
        """Whether this rank has something to do before the ranks can go on together."""
        return False

    def advance(self) -> Published | None:
        """Go on, in a meeting of the ranks in which none is waited for; return what the snapshot became."""
        return None

    @abstractmethod
    def finish(self, *, timeout_s: float = FOR_EVER_S) -> Published | None:
        """Wait for what is under way; return what became of it, None if nothing was.

        Args:
            timeout_s: How long a rank's store may take.
        """

    @abstractmethod
    def publish_now(self, progress: Progress, *, finished: bool = False) -> Published:
        """Publish, and wait for it. Arguments as those of ``begin``.

        Raises:
            StoreError: If the store fails, on the ranks that know.
        """

    def wait(self, timeout_s: float) -> bool:
        """Wait until this rank's thread has nothing to do; return whether that is so."""
        return self._worker.wait(timeout_s)
