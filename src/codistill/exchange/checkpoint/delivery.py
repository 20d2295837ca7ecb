"""The way of snapshots from the rank that reads the store to all ranks of the peer."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import final

from codistill.exchange.checkpoint.background import Worker
from codistill.exchange.checkpoint.changes import Announced, Changes
from codistill.exchange.checkpoint.waiting import wait_until
from codistill.parallel.group import PeerRanks


@final
class Delivery:
    """Copies what rank 0 has read to the others, while training goes on or at once.

    A snapshot is read once an interval, however many ranks there are; the others get the very bytes that
    rank 0 has verified, and decode them themselves.

    **Ranks**: all of the peer, ``start`` and ``bring`` at the same step.
    **Blocks**: ``bring`` until the bytes are there; ``start`` and ``is_done`` do not.
    **On failure**: raises what torch raises; the teachers are as they were.
    """

    def __init__(self, ranks: PeerRanks, worker: Worker, *, is_pinned: bool) -> None:
        """Begin with nothing to deliver.

        Args:
            ranks: The ranks of the peer.
            worker: Decodes on the other ranks than 0.
            is_pinned: Whether the weights go on to a GPU.
        """
        self._ranks = ranks
        self._worker = worker
        self._is_pinned = is_pinned
        self._has_arrived: Callable[[], bool] | None = None
        self._announced: Announced | None = None
        self._is_decoding = False
        self._changes: Changes | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether something has been started and not taken."""
        return self._has_arrived is not None

    def bring(self, changes: Changes | None) -> Changes:
        """Return rank 0's changes on all ranks, having waited for them.

        Args:
            changes: On rank 0, what to bring.
        """
        if self._ranks.size == 1:
            assert changes is not None
            return changes
        announced = self._announce(changes)
        if announced is None:
            assert changes is not None
            for arrival in changes.arrivals:
                self._ranks.broadcast_into(arrival.contents)
            return changes
        for contents in announced.contents:
            self._ranks.broadcast_into(contents)
        return announced.decode()

    def start(self, changes: Changes | None) -> None:
        """Begin to deliver.

        Args:
            changes: On rank 0, what to deliver.
        """
        self._announced = self._announce(changes)
        self._changes = changes
        if self._announced is not None:
            snapshots = self._announced.contents
        else:
            assert changes is not None
            snapshots = tuple(tuple(arrival.contents) for arrival in changes.arrivals)
        self._has_arrived = self._ranks.start_broadcast([shard for shards in snapshots for shard in shards])

    def is_done(self) -> bool:
        """Return whether everything is on this rank and decoded."""
        assert self._has_arrived is not None
        if self._announced is None or self._changes is not None:
            return self._has_arrived()
        if not self._is_decoding and self._has_arrived():
            self._is_decoding = self._worker.offer(self._announced.decode)
        outcome = self._worker.take() if self._is_decoding else None
        if outcome is None:
            return False
        if outcome.error is not None:
            raise outcome.error
        self._changes = outcome.result
        return True

    def settle(self, timeout_s: float) -> None:
        """Wait until no rank still needs this one's bytes, so that the groups may be let go."""
        arrived = self._has_arrived
        if arrived is not None:
            with suppress(RuntimeError):
                wait_until(lambda: arrived() or None, timeout_s=timeout_s, clock=time)

    def take(self) -> Changes:
        """Return what was delivered, once it is done on all ranks."""
        changes = self._changes
        assert changes is not None
        self._has_arrived = self._announced = self._changes = None
        self._is_decoding = False
        return changes

    def _announce(self, changes: Changes | None) -> Announced | None:
        """Tell the other ranks what is coming; None on rank 0."""
        said = self._ranks.broadcast(None if changes is None else changes.to_json())
        return Announced.from_json(said, is_pinned=self._is_pinned) if changes is None else None
