"""What lies in the store of a run, and whether it is whole."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, final

from codistill.errors import KeyMissingError, SnapshotError, StoreError
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.roster import Order
from codistill.exchange.checkpoint.stored_snapshot import StoredSnapshot, read_stored
from codistill.snapshots.document import Fields, refusals
from codistill.snapshots.keys import (
    RUN_KEY,
    is_peer_name,
    life_key,
    parse_snapshot_name,
    pointer_key,
    snapshots_prefix,
    status_key,
)
from codistill.snapshots.manifest import ManifestReference
from codistill.snapshots.pointer import Pointer
from codistill.snapshots.run import MAX_RUN_BYTES, Run
from codistill.snapshots.signing import SigningKey
from codistill.snapshots.status import MAX_STATUS_BYTES, Status
from codistill.stores.base import Store

# In all: what is listed is kept.
_MOST_NAMES: Final = 1_000_000
_LIFE: Final = re.compile(r"(0|[1-9][0-9]{0,18})\.json")

_RESTORE: Final = "Restore it from a copy, or delete it where nobody needs it."
_NEWEST: Final = "The peer's next snapshot replaces it; if the peer has ended, restore it from a copy."
_OLDER: Final = "Only a job that resumes may need it: restore it from a copy, or leave it."
_UNNEEDED: Final = "Nobody needs it: prune it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something in a store that is not as it should be."""

    peer: str | None
    """Whose it is; None if it is the run's."""
    key: str
    """Where it is."""
    what: str
    """What is wrong."""
    next_step: str
    """What to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """Values in the folder of a snapshot that nobody is led to, and nobody says it is reading."""

    peer: str
    """Whose they are."""
    order: Order
    """(incarnation, sequence) of the snapshot."""
    values: tuple[str, ...]
    """Their keys."""
    size_bytes: int
    """Their size."""
    why: str
    """Why nobody is led to them."""

    @property
    def key(self) -> str:
        """The folder they lie in."""
        return f"{snapshots_prefix(self.peer)}/{self.order[0]}-{self.order[1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInspection:
    """What there is of one peer."""

    peer: str
    """Its name."""
    pointer: Pointer | None
    """Leads to its newest snapshot; None if there is none that can be read."""
    step: int | None
    """Optimizer steps taken at that snapshot; None if it cannot be read."""
    status: Status | None
    """What it tells of itself; None if there is nothing that can be read."""
    lives: int
    """How many lives it has had."""
    snapshots: int
    """How many snapshots there are that have a manifest."""
    size_bytes: int
    """Size of all that lies in the folders of its snapshots, orphans included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInspection:
    """What there is of a run."""

    run_id: str | None
    """Its id; None if ``run.json`` cannot be read."""
    peers: tuple[PeerInspection, ...]
    """By name."""
    orphans: tuple[Orphan, ...]
    """What peers that were killed, or a store that failed, have left; it only takes room."""
    problems: tuple[Problem, ...]
    """What is wrong; none in a run that is well."""


def inspect_run(store: Store, *, signing_key: SigningKey | None = None) -> RunInspection:
    """Read all of a run, verify every digest, and say what is wrong and what nobody needs.

    A snapshot is needed if the peer's pointer leads to it, at once or along ``previous``, or if a status
    says that it is being read. So is one from which ``previous`` leads to the peer's first, unless it is
    later than the pointer: runs in lockstep keep all, and a peer that resumes there may ask for one that a
    later life of its publisher has passed by. Where a pointer or a manifest cannot be read, nothing that
    might hang on it is called an orphan.

    **Ranks**: any process, whether it takes part in the run or not.
    **Blocks**: while the whole store is read, 8 MiB at a time; nothing but one manifest is held whole.
    **On failure**: nothing has changed; what cannot be read is a problem in what is returned.

    Args:
        store: The run's store.
        signing_key: What pointers must be signed with; None does not look at signatures.

    Raises:
        StoreError: If the store cannot be listed.

    Example:
        >>> from codistill.stores.memory import MemoryStore
        >>> (problem,) = inspect_run(MemoryStore()).problems
        >>> problem.key, problem.what
        ('run.json', "Nothing is stored under 'run.json' in the memory of this process.")
    """
    return _Inspector(store, signing_key).inspect()


def read_told(store: Store, peer: str) -> Status | None:
    """Return what a peer tells of itself; None if it has told nothing.

    Raises:
        SnapshotError, StoreError: If that cannot be read.
    """
    key = status_key(peer)
    try:
        # One more than allowed, so that a longer document is refused rather than cut.
        content = store.read(key, max_bytes=MAX_STATUS_BYTES + 1)
    except KeyMissingError:
        return None
    return Status.from_json(content, key=key)


@final
class _Inspector:
    def __init__(self, store: Store, signing_key: SigningKey | None) -> None:
        self._store = store
        self._problems: list[Problem] = []
        self._orphans: list[Orphan] = []
        self._names_left = _MOST_NAMES
        self._run_id: str | None = None
        with self._noting(None, RUN_KEY, "Restore it from a copy; without it no peer can join."):
            self._run_id = Run.from_json(store.read(RUN_KEY, max_bytes=MAX_RUN_BYTES + 1)).run_id
        self._fetcher = Fetcher(store, run_id=self._run_id, max_bytes=None, signing_key=signing_key)

    def inspect(self) -> RunInspection:
        peers = [name for name in self._list("") if is_peer_name(name)]
        statuses = {peer: self._read_status(peer) for peer in peers}
        read = [
            teacher
            for status in statuses.values()
            if status is not None
            for teacher in status.reading.items()
        ]
        return RunInspection(
            run_id=self._run_id,
            peers=tuple(
                self._inspect_peer(
                    peer, statuses[peer], {order for teacher, order in read if teacher == peer}
                )
                for peer in peers
            ),
            # What was not listed may be what leads to them.
            orphans=tuple(self._orphans) if self._names_left > 0 else (),
            problems=tuple(self._problems),
        )

    def _inspect_peer(self, peer: str, status: Status | None, read: set[Order]) -> PeerInspection:
        stored: dict[Order, StoredSnapshot] = {}
        for name in self._list(snapshots_prefix(peer)):
            order = parse_snapshot_name(name)
            if order is not None:
                self._read_snapshot(peer, order, stored)
        # Read last: what was listed just before its peer pointed to it is no orphan.
        pointer, is_known = None, False
        with self._noting(peer, pointer_key(peer), _RESTORE):
            pointer, is_known = self._fetcher.pointer(peer), True
        if pointer is not None:
            pointer = self._follow(pointer, stored)
        needed = self._find_needed(pointer, stored) | read if is_known else set(stored)
        for order, snapshot in sorted(stored.items()):
            self._judge(snapshot, pointer, is_needed=order in needed)
        newest = None if pointer is None else stored.get(pointer.order)
        return PeerInspection(
            peer=peer,
            pointer=pointer,
            step=None if newest is None else newest.step,
            status=status,
            lives=self._count_lives(peer, pointer, status),
            snapshots=sum(snapshot.has_manifest for snapshot in stored.values()),
            size_bytes=sum(snapshot.size_bytes for snapshot in stored.values()),
        )

    def _judge(self, snapshot: StoredSnapshot, pointer: Pointer | None, *, is_needed: bool) -> None:
        """Note what is wrong with a snapshot, and what of it nobody needs."""
        if is_needed:
            is_newest = pointer is not None and snapshot.order == pointer.order
            self._add_errors(snapshot, _NEWEST if is_newest else _OLDER)
            self._add_orphan(snapshot, snapshot.strays, "its manifest does not name it")
            return
        self._add_errors(snapshot, _UNNEEDED)
        if not snapshot.has_manifest:
            why = "it has no manifest"
        elif pointer is None or snapshot.order > pointer.order:
            why = "no pointer has led to it"
        else:
            why = "nothing leads to it any more"
        self._add_orphan(snapshot, tuple(snapshot.sizes), why)

    def _find_needed(self, pointer: Pointer | None, stored: dict[Order, StoredSnapshot]) -> set[Order]:
        """Return what the pointer leads to, and what else somebody may still ask for."""
        if pointer is None:
            return set()
        needed, is_whole = self._walk(pointer, stored)
        loose = _find_loose(stored)
        return needed | {
            order
            for order, snapshot in stored.items()
            if snapshot.has_manifest and order < pointer.order and not (is_whole and loose[order])
        }

    def _walk(self, pointer: Pointer, stored: dict[Order, StoredSnapshot]) -> tuple[set[Order], bool]:
        """Return what the pointer leads to along ``previous``, and whether nothing damaged ended the way."""
        needed = {pointer.order}
        reference: ManifestReference | None = pointer.manifest
        while reference is not None:
            if reference.order not in stored:
                self._read_snapshot(pointer.peer, reference.order, stored)
            snapshot = stored.get(reference.order)
            if snapshot is None or not snapshot.has_manifest:
                # All before the newest are deleted in their turn.
                return needed, reference != pointer.manifest
            needed.add(reference.order)
            if snapshot.reference is not None and snapshot.reference != reference:
                what = f"Manifest {snapshot.key!r} is not the one that was referred to: its digest differs."
                is_newest = reference == pointer.manifest
                self._add(pointer.peer, snapshot.key, what, _NEWEST if is_newest else _OLDER)
            if not snapshot.is_described or snapshot.reference != reference:
                return needed, False
            reference = snapshot.previous
        return needed, True

    def _follow(self, pointer: Pointer, stored: dict[Order, StoredSnapshot]) -> Pointer:
        """Return the pointer, or a newer one if the peer has replaced and deleted what it led to."""
        while True:
            order = pointer.order
            if order not in stored or not stored[order].has_manifest:
                self._read_snapshot(pointer.peer, order, stored)
            if order in stored and stored[order].has_manifest:
                return pointer
            newer = None
            with self._noting(pointer.peer, pointer_key(pointer.peer), _RESTORE):
                newer = self._fetcher.pointer(pointer.peer)
            if newer is None or newer.order <= order:
                key = pointer.manifest.key
                what = f"Nothing is stored under {key!r}, and the pointer leads to it."
                self._add(pointer.peer, key, what, _NEWEST)
                return pointer
            pointer = newer

    def _read_snapshot(self, peer: str, order: Order, stored: dict[Order, StoredSnapshot]) -> None:
        names = self._list(f"{snapshots_prefix(peer)}/{order[0]}-{order[1]}")
        snapshot = read_stored(self._store, self._fetcher, peer, order, names)
        if snapshot is not None:
            stored[order] = snapshot

    def _read_status(self, peer: str) -> Status | None:
        key = status_key(peer)
        status = None
        next_step = "The peer's next heartbeat replaces it; if the peer has ended, delete it."
        with self._noting(peer, key, next_step):
            status = read_told(self._store, peer)
        if status is not None and self._run_id not in (None, status.run_id):
            what = f"The status at {key!r} must be of run {self._run_id}, got {status.run_id}."
            self._add(peer, key, what, next_step)
        return status

    def _count_lives(self, peer: str, pointer: Pointer | None, status: Status | None) -> int:
        """Return how many lives a peer has had, and check that none is missing that has left something."""
        lives = set()
        for name in self._list(f"{peer}/lives"):
            match = _LIFE.fullmatch(name)
            if match is not None:
                lives.add(int(match[1]))
                key = life_key(peer, int(match[1]))
                with self._noting(peer, key, _RESTORE), refusals("claim", key):
                    Fields.of_document(
                        self._store.read(key, max_bytes=MAX_RUN_BYTES + 1), max_bytes=MAX_RUN_BYTES
                    )
        left = {document.incarnation for document in (pointer, status) if document is not None}
        for incarnation in sorted(left - lives):
            key = life_key(peer, incarnation)
            what = f"Nothing is stored under {key!r}, and that life has left something."
            self._add(peer, key, what, "Look for what else is missing; the next job claims a later life.")
        return len(lives)

    def _list(self, prefix: str) -> list[str]:
        if self._names_left == 0:
            return []
        names = self._store.list_names(prefix, limit=self._names_left)
        self._names_left -= len(names)
        if self._names_left == 0:
            self._add(None, prefix, f"There are more than {_MOST_NAMES} names.", "Not all was inspected.")
        return names

    @contextmanager
    def _noting(self, peer: str | None, key: str, next_step: str) -> Iterator[None]:
        """Make a problem of what cannot be read."""
        try:
            yield
        except (SnapshotError, StoreError) as error:
            self._add(peer, key, str(error), next_step)

    def _add_errors(self, snapshot: StoredSnapshot, next_step: str) -> None:
        for key, error in snapshot.errors.items():
            self._add(snapshot.peer, key, str(error), next_step)

    def _add_orphan(self, snapshot: StoredSnapshot, keys: tuple[str, ...], why: str) -> None:
        values = tuple(key for key in keys if key in snapshot.sizes)
        if values:
            self._orphans.append(
                Orphan(
                    peer=snapshot.peer,
                    order=snapshot.order,
                    values=values,
                    size_bytes=sum(snapshot.sizes[key] for key in values),
                    why=why,
                )
            )

    def _add(self, peer: str | None, key: str, what: str, next_step: str) -> None:
        self._problems.append(Problem(peer=peer, key=key, what=what, next_step=next_step))


def _find_loose(stored: Mapping[Order, StoredSnapshot]) -> dict[Order, bool]:
    """Return of which snapshots an earlier one, along ``previous``, is gone: in lockstep none is."""
    loose: dict[Order, bool] = {}
    for order, snapshot in sorted(stored.items()):
        previous = snapshot.previous
        before = None if previous is None else stored.get(previous.order)
        loose[order] = previous is not None and (
            before is None or before.reference != previous or loose[before.order]
        )
    return loose
