"""The way of snapshots from the rank that reads the store to all ranks of the peer."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import final

from torch import Tensor

from codistill.exchange.checkpoint.background import Worker
from codistill.exchange.checkpoint.changes import Announced, Changes
from codistill.exchange.checkpoint.waiting import wait_until
from codistill.parallel.group import PeerRanks


@final
class Delivery:
    """Copies what rank 0 has read to the others, while training goes on or at once.

    A snapshot is read once an interval, however many ranks there are; the others get the very bytes that
    rank 0 has verified, and decode them themselves.

    **Ranks**: all of the peer, ``announce``, then ``start`` or ``bring``, at the same step.
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

    def announce(self, changes: Changes | None) -> None:
        """Tell the other ranks what is coming, and make room for it there.

        Args:
            changes: On rank 0, what to bring.
        """
        self._changes, self._announced = changes, None
        if self._ranks.size > 1:
            said = self._ranks.broadcast(None if changes is None else changes.to_json())
            if changes is None:
                self._announced = Announced.from_json(said, is_pinned=self._is_pinned)

    def bring(self) -> Changes:
        """Return what was announced, on all ranks, having waited for the bytes."""
        self._ranks.broadcast_into(self._contents())
        changes = self._changes if self._announced is None else self._announced.decode()
        assert changes is not None
        self._announced = self._changes = None
        return changes

    def start(self) -> None:
        """Begin to deliver what was announced."""
        self._has_arrived = self._ranks.start_broadcast(self._contents())

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

    def _contents(self) -> list[Tensor]:
        if self._announced is not None:
            return [shard for shards in self._announced.contents for shard in shards]
        assert self._changes is not None
        return [shard for arrival in self._changes.arrivals for shard in arrival.contents]
