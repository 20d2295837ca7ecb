"""What one rank reads of snapshots that the ranks divide among them."""

from typing import final

from codistill.errors import SnapshotMismatchError
from codistill.exchange.checkpoint.classroom import Classroom
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.sighting import Arrival, Discovery
from codistill.fragments import Box
from codistill.snapshots.codec import first_nan


class NotFiniteError(Exception):
    """A snapshot holds NaN."""


@final
class PartReader:
    """Reads from the store what this rank's fragments of a teacher need.

    **Ranks**: all of the peer.
    **Blocks**: ``prepare``, which is on the training thread, while ``build`` makes a module; ``read``, on any
    thread, while the store is read.
    """

    def __init__(self, classroom: Classroom, fetcher: Fetcher) -> None:
        """Read for one classroom.

        Args:
            classroom: Has the teachers, and so knows what this rank holds of them.
            fetcher: Reads.
        """
        self._classroom = classroom
        self._fetcher = fetcher
        self._boxes: dict[str, dict[str, Box] | SnapshotMismatchError] = {}

    def prepare(self, discovery: Discovery) -> None:
        """Find out what this rank needs of a snapshot, making the teacher if there is none that fits."""
        try:
            self._boxes[discovery.manifest.peer] = self._classroom.prepare(discovery)
        except SnapshotMismatchError as error:
            self._boxes[discovery.manifest.peer] = error

    def read(self, discovery: Discovery) -> Arrival:
        """Return this rank's part, verified.

        Raises:
            SnapshotError, StoreError: If it cannot be read or used.
            NotFiniteError: If it holds NaN.
        """
        boxes = self._boxes[discovery.manifest.peer]
        if isinstance(boxes, SnapshotMismatchError):
            raise boxes
        arrival = self._fetcher.fetch_boxes(discovery, boxes)
        name = first_nan(arrival.tensors)
        if name is not None:
            raise NotFiniteError(f"{name!r} of its snapshot at step {discovery.manifest.step} holds NaN")
        return arrival

    @property
    def bytes_read(self) -> int:
        """Bytes that this rank has read from the store."""
        return self._fetcher.bytes_read

    def give_up(self) -> None:
        """Let a read that another thread is at end at its next chunk."""
        self._fetcher.give_up()
