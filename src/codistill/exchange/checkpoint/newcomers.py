"""Peers that have published nothing but the weights they began with."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

from codistill.errors import KeyMissingError, SnapshotError, StoreError
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.lives import HEARTBEAT_S, read_status
from codistill.exchange.checkpoint.roster import Order
from codistill.exchange.checkpoint.waiting import Clock
from codistill.snapshots.pointer import Pointer
from codistill.stores.base import Store

_SILENT_S: Final = 3 * HEARTBEAT_S
_Snapshot = tuple[str, Order]


@final
class Newcomers:
    """Tells a peer that is about to train from what a job left that ended before it had trained.

    Either has published step 0 and nothing else. It counts if it comes while one looks, or once its
    heartbeat has been seen to move, and no more when that has been still for three beats, 15 s.

    **Ranks**: rank 0, any one thread at a time.
    **Blocks**: while the store is read.
    **On failure**: a peer that the store keeps from being looked at is named, and the others are looked at.
    """

    def __init__(self, store: Store, fetcher: Fetcher, *, clock: Clock) -> None:
        """Look at one run.

        Args:
            store: Where statuses are.
            fetcher: Reads manifests.
            clock: Measures how long a heartbeat is still.
        """
        self._store = store
        self._fetcher = fetcher
        self._clock = clock
        self._there_at_first: set[_Snapshot] | None = None
        self._trained: set[_Snapshot] = set()
        self._pulses: dict[_Snapshot, _Pulse] = {}

    def look(self, pointers: Iterable[Pointer]) -> tuple[dict[str, str], dict[str, StoreError]]:
        """Return which peers do not count, and why; and the errors of those that could not be looked at.

        Args:
            pointers: To the newest snapshot of each peer.
        """
        reasons, errors = {}, {}
        pointers = list(pointers)
        if self._there_at_first is None:
            self._there_at_first = {(pointer.peer, pointer.order) for pointer in pointers}
        for pointer in pointers:
            try:
                reason = self._why_not(pointer)
            except StoreError as error:
                errors[pointer.peer] = error
            else:
                if reason is not None:
                    reasons[pointer.peer] = reason
        return reasons, errors

    def _why_not(self, pointer: Pointer) -> str | None:
        snapshot = (pointer.peer, pointer.order)
        # Only the first of a life can be of step 0.
        if pointer.sequence > 0 or snapshot in self._trained:
            return None
        status = read_status(self._store, pointer.peer)
        # What was brought here from elsewhere may have none.
        if status is None or status.state == "finished" or self._has_trained(pointer):
            return None
        if status.state == "left":
            return "left before it had trained"
        pulse = self._pulses.get(snapshot)
        beat, now_s = (status.incarnation, status.heartbeat), self._clock.monotonic()
        if pulse is None or pulse.beat != beat:
            assert self._there_at_first is not None
            has_moved = pulse is not None or snapshot not in self._there_at_first
            pulse = self._pulses[snapshot] = _Pulse(beat, since_s=now_s, has_moved=has_moved)
        if pulse.has_moved and now_s - pulse.since_s < _SILENT_S:
            return None
        return "has not trained, and its heartbeat does not move"

    def _has_trained(self, pointer: Pointer) -> bool:
        snapshot = (pointer.peer, pointer.order)
        if snapshot in self._pulses:
            return False
        try:
            manifest = self._fetcher.manifest(pointer.manifest)
        except (SnapshotError, KeyMissingError):
            # Whoever reads it will say so, or find that there is a newer one.
            return True
        if manifest.step == 0 and not manifest.finished:
            return False
        self._trained.add(snapshot)
        return True


@dataclass(frozen=True, slots=True)
class _Pulse:
    """A heartbeat as it was seen last."""

    beat: Order
    """Incarnation and count."""
    since_s: float
    has_moved: bool
