"""The way of snapshots to all ranks of the peer."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, final

from torch import Tensor

from codistill.errors import SnapshotError, StoreError
from codistill.exchange.checkpoint.background import Worker
from codistill.exchange.checkpoint.changes import Announced, Changes
from codistill.exchange.checkpoint.part_reader import NotFiniteError, PartReader
from codistill.exchange.checkpoint.sighting import Arrival, Discovery
from codistill.exchange.checkpoint.waiting import wait_until
from codistill.parallel.group import PeerRanks


@final
class Delivery:
    """Brings new snapshots to all ranks, while training goes on or at once.

    One that each rank holds whole is read once, by rank 0; the others get the very bytes that rank 0 has
    verified, and decode them themselves. Of one that the ranks divide among them, each reads its own part.

    **Ranks**: all of the peer, ``announce``, then ``start`` or ``bring``, at the same step.
    **Blocks**: ``bring`` until everything is there; ``announce`` while teachers are built; ``start`` and
    ``is_done`` do not.
    **On failure**: raises what torch raises; the teachers are as they were. What keeps a rank from reading
    its part stands in the changes.
    """

    def __init__(self, ranks: PeerRanks, worker: Worker, parts: PartReader, *, is_pinned: bool) -> None:
        """Begin with nothing to deliver.

        Args:
            ranks: The ranks of the peer.
            worker: Decodes, and reads parts.
            parts: Reads this rank's part.
            is_pinned: Whether the weights go on to a GPU.
        """
        self._ranks = ranks
        self._worker = worker
        self._parts = parts
        self._is_pinned = is_pinned
        self._has_arrived: Callable[[], bool] | None = None
        self._announced: Announced | None = None
        self._is_working = False
        self._read: _Read | None = None
        self._changes: Changes | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether something has been started and not taken."""
        return self._has_arrived is not None

    def announce(self, changes: Changes | None) -> None:
        """Tell the other ranks what is coming, make room for it, and find out what each is to read.

        Args:
            changes: On rank 0, what to bring.
        """
        self._changes, self._announced, self._read = changes, None, None
        if self._ranks.size > 1:
            said = self._ranks.broadcast(None if changes is None else changes.to_json())
            if changes is None:
                self._announced = Announced.from_json(said, is_pinned=self._is_pinned)
        for discovery in self._discoveries():
            self._parts.prepare(discovery)

    def bring(self) -> Changes:
        """Return what was announced, on all ranks, having waited for it."""
        self._ranks.broadcast_into(self._contents())
        changes = self._changes if self._announced is None else self._announced.decode()
        assert changes is not None
        read = self._read_parts()
        self._announced = self._changes = None
        return _join(changes, read)

    def start(self) -> None:
        """Begin to deliver what was announced."""
        self._has_arrived = self._ranks.start_broadcast(self._contents())

    def is_done(self) -> bool:
        """Return whether everything is on this rank, decoded."""
        assert self._has_arrived is not None
        if self._read is None:
            if not self._discoveries():
                self._read = _Read({}, {})
            elif not self._is_working:
                self._is_working = self._worker.offer(self._read_parts)
                return False
            elif (result := self._take_result()) is not None:
                self._read = result
            else:
                return False
        if self._announced is None or self._changes is not None:
            return self._has_arrived()
        if not self._is_working and self._has_arrived():
            self._is_working = self._worker.offer(self._announced.decode)
        changes = self._take_result() if self._is_working else None
        if changes is None:
            return False
        self._changes = changes
        return True

    def settle(self, timeout_s: float) -> None:
        """Wait until no rank still needs this one's bytes, so that the groups may be let go."""
        arrived = self._has_arrived
        if arrived is not None:
            with suppress(RuntimeError):
                wait_until(lambda: arrived() or None, timeout_s=timeout_s, clock=time)

    def take(self) -> Changes:
        """Return what was delivered, once it is done on all ranks."""
        changes, read = self._changes, self._read or _Read({}, {})
        assert changes is not None
        self._has_arrived = self._announced = self._changes = self._read = None
        self._is_working = False
        return _join(changes, read)

    def _take_result(self) -> Any:
        outcome = self._worker.take()
        if outcome is None:
            return None
        self._is_working = False
        if outcome.error is not None:
            raise outcome.error
        return outcome.result

    def _read_parts(self) -> "_Read":
        arrivals, unread = {}, {}
        for discovery in self._discoveries():
            try:
                arrivals[discovery.manifest.peer] = self._parts.read(discovery)
            except (SnapshotError, StoreError, NotFiniteError) as error:
                unread[discovery.manifest.peer] = error
        return _Read(arrivals, unread)

    def _discoveries(self) -> tuple[Discovery, ...]:
        said = self._changes if self._announced is None else self._announced
        assert said is not None
        return said.discoveries

    def _contents(self) -> list[Tensor]:
        if self._announced is not None:
            return [shard for shards in self._announced.contents for shard in shards]
        assert self._changes is not None
        return [shard for arrival in self._changes.arrivals for shard in arrival.contents]


@dataclass(frozen=True, slots=True)
class _Read:
    """What this rank has read itself, by peer, and what kept it from it."""

    arrivals: Mapping[str, Arrival]
    unread: Mapping[str, Exception]


def _join(changes: Changes, read: _Read) -> Changes:
    return replace(changes, arrivals=(*changes.arrivals, *read.arrivals.values()), unread=read.unread)
