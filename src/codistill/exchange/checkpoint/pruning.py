"""Deleting what nobody needs from the store of a run."""

import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final

from codistill.errors import SnapshotError
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.inspection import Orphan, RunInspection, read_told
from codistill.exchange.checkpoint.lives import HEARTBEAT_S
from codistill.exchange.checkpoint.waiting import Clock
from codistill.snapshots.keys import is_peer_name, manifest_key
from codistill.snapshots.status import Status
from codistill.stores.base import Store

_BEATS_TO_WATCH: Final = 3
_MOST_NAMES: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spared:
    """An orphan that was left."""

    orphan: Orphan
    """Which one."""
    why: str
    """Why it was left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was deleted, and what was not."""

    deleted: tuple[Orphan, ...]
    """Gone."""
    spared: tuple[Spared, ...]
    """Left."""


def prune(store: Store, inspection: RunInspection, *, clock: Clock = time) -> Pruned:
    """Delete the orphans that an inspection has found, and nothing else.

    Spared are those of a peer that lives or has published since, and those that somebody says it is reading;
    and all of them while ``run.json``, or what any peer tells of itself, cannot be read.

    **Ranks**: any process, one at a time.
    **Blocks**: while the store is read and written; for three heartbeats, 15 s, if a peer that has orphans
    says that it is running.
    **On failure**: what has been deleted is gone, the rest is still there; it may be called again.

    Args:
        store: The run's store, which may be written.
        inspection: What ``inspect_run`` has returned for it.
        clock: To watch heartbeats by.

    Raises:
        StoreError: If the store refuses.
    """
    if inspection.run_id is None:
        return _spare_all(inspection, "run.json cannot be read, so this may be no run")
    deleted, spared = [], []
    try:
        living = _watch(store, inspection, clock)
        published = _find_published(store, inspection)
        # Last: who begins to read while heartbeats are watched is heard.
        names = [name for name in store.list_names("", limit=_MOST_NAMES) if is_peer_name(name)]
        statuses = [status for name in names if (status := read_told(store, name)) is not None]
    except SnapshotError as error:
        return _spare_all(inspection, f"not all can be read of what peers are reading: {error}")
    for orphan in inspection.orphans:
        why_not = _why_to_spare(orphan, living, published, statuses)
        if why_not is None:
            _delete(store, orphan)
            deleted.append(orphan)
        else:
            spared.append(Spared(orphan=orphan, why=why_not))
    return Pruned(deleted=tuple(deleted), spared=tuple(spared))


def _spare_all(inspection: RunInspection, why: str) -> Pruned:
    return Pruned(deleted=(), spared=tuple(Spared(orphan=each, why=why) for each in inspection.orphans))


def _watch(store: Store, inspection: RunInspection, clock: Clock) -> set[str]:
    """Return which of the peers that have orphans live: whose status changes while it is watched."""
    owners = {orphan.peer for orphan in inspection.orphans}
    before = {peer.peer: peer.status for peer in inspection.peers if peer.peer in owners}
    living = {peer for peer, status in before.items() if read_told(store, peer) != status}
    silent = {peer for peer, status in before.items() if status is not None and status.state == "running"}
    for _ in range(_BEATS_TO_WATCH):
        silent -= living
        if not silent:
            break
        clock.sleep(HEARTBEAT_S)
        living |= {peer for peer in silent if read_told(store, peer) != before[peer]}
    return living


def _find_published(store: Store, inspection: RunInspection) -> set[str]:
    """Return which of the peers that have orphans have another pointer than when they were inspected."""
    fetcher = Fetcher(store, run_id=inspection.run_id, max_bytes=None)
    owners = {orphan.peer for orphan in inspection.orphans}
    return {
        peer.peer
        for peer in inspection.peers
        if peer.peer in owners and fetcher.pointer(peer.peer) != peer.pointer
    }


def _why_to_spare(
    orphan: Orphan, living: Set[str], published: Set[str], statuses: Sequence[Status]
) -> str | None:
    if orphan.peer in living:
        return f"peer {orphan.peer!r} lives"
    if orphan.peer in published:
        return f"peer {orphan.peer!r} has published since"
    readers = [status.peer for status in statuses if status.reading.get(orphan.peer) == orphan.order]
    return f"peer {readers[0]!r} is reading it" if readers else None


def _delete(store: Store, orphan: Orphan) -> None:
    # The manifest goes first: what is left, if the rest cannot be deleted, is no snapshot.
    manifest = manifest_key(orphan.peer, *orphan.order)
    for key in sorted(orphan.values, key=lambda key: key != manifest):
        store.delete(key)
