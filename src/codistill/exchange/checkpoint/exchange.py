"""Exchange of weights through a store."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn
from typing_extensions import override

from codistill.errors import CodistillWarning, SnapshotError, StoreError
from codistill.exchange.base import Exchange, ExchangeCounters, Predictions, Progress, TeacherInfo
from codistill.exchange.checkpoint.classroom import Classroom
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.lockstep import Lockstep, LockstepReader
from codistill.exchange.checkpoint.membership import (
    Membership,
    PeerFinder,
    check_new,
    check_peers,
    claim_life,
    open_run,
)
from codistill.exchange.checkpoint.newest import NewestReader
from codistill.exchange.checkpoint.notices import Notices
from codistill.exchange.checkpoint.publisher import Life, Publisher, SnapshotOptions
from codistill.exchange.checkpoint.reader import Reader
from codistill.exchange.checkpoint.saved_state import SavedState
from codistill.exchange.checkpoint.waiting import Clock
from codistill.exchange.teachers import TeacherOptions
from codistill.parallel.weights import named_tensors
from codistill.snapshots.keys import check_peer_name
from codistill.snapshots.manifest import Manifest
from codistill.stores.base import Store
from codistill.stores.opening import open_store
from codistill.topologies import Topology, as_topology

_KEPT_BY_DEFAULT = 2
_SIZE_ALLOWANCE = 4
_SMALLEST_MAX_BYTES = 2**20


@final
class CheckpointExchange(Exchange):
    """Peers publish snapshots of their weights in a store, and run stale copies of one another's.

    The exchange of Anil et al. 2018 (section 2.1) and Sodhani et al. 2020 (section 2): every
    ``interval_steps`` optimizer steps a peer publishes and takes what the others have published by
    then. It waits for nobody, unless in lockstep.

    **Ranks**: the one process of the peer.
    **Blocks**: at each interval, while the snapshot is written and the teachers' are read; in lockstep
    also until all peers are there.
    **On failure**: out of lockstep, a store that fails and a snapshot that is damaged or does not fit
    are warned of once; training goes on with the last good teachers, and the next interval tries again.
    At the start and in lockstep they are raised.

    Attributes:
        clock: What waits are measured by, ``time`` unless replaced before the first loss.
    """

    clock: Clock = time

    def __init__(
        self,
        store: str | Path | Store,
        *,
        peer: str,
        peers: Sequence[str] | None = None,
        interval_steps: int = 50,
        topology: str | Topology = "ring",
        lockstep: bool | Lockstep = False,
        snapshots: SnapshotOptions | None = None,
        teachers: TeacherOptions | None = None,
        membership: Membership | None = None,
    ) -> None:
        """Take part in the run of a store, creating it if this peer is the first.

        Args:
            store: A folder that all peers see, or a ``Store``; one for each run.
            peer: This peer's name, different from the others'.
            peers: Everybody's names; None for whoever publishes under the run.
            interval_steps: Optimizer steps between two publishes, >= 1.
            topology: Who learns from whom: "ring" (each from the one before it in sorted order),
                "all", or a ``Topology``.
            lockstep: Wait for every other peer at every interval; needs ``peers``.
            snapshots: What is published and kept.
            teachers: How teachers are made.
            membership: How this peer joins.

        Raises:
            TypeError, ValueError: If an argument is not as described, or contradicts another.
            StoreError: If the store cannot be written.
        """
        self.interval_steps = _at_least_1("interval_steps", interval_steps)
        self.counters = ExchangeCounters()
        self._peer = check_peer_name(peer)
        self._snapshots = snapshots or SnapshotOptions()
        self._teacher_options = teachers or TeacherOptions()
        self._membership = membership or Membership()
        self._topology = as_topology(topology)
        self._peers = check_peers(
            self._peer,
            peers,
            topology=self._topology,
            max_teachers=self._teacher_options.max_teachers,
            start_with_peers=self._membership.start_with_peers,
        )
        self._lockstep = (Lockstep() if lockstep else None) if isinstance(lockstep, bool) else lockstep
        if self._lockstep is not None:
            _check_lockstep(self._peers, self._snapshots, self._membership)
        self._store = open_store(store)
        self._run_id = open_run(self._store)
        self._notices = Notices()
        self._saved: SavedState | None = None
        self._own_digests: Mapping[int, str] = {}
        self._step = 0
        self._is_closed = False
        self._bound: _Bound | None = None
        self._publisher: Publisher | None = None

    @override
    def bind(self, model: nn.Module, outputs_to_logits: Callable[[Any], Tensor] | None) -> None:
        if self._bound is not None:
            raise ValueError(
                "exchange must be used by one Codistiller only, got a second. Make a new exchange."
            )
        own_bytes = sum(tensor.nbytes for tensor in named_tensors(model).values())
        fetcher = Fetcher(
            self._store,
            run_id=self._run_id,
            max_bytes=self._snapshots.max_bytes or max(_SIZE_ALLOWANCE * own_bytes, _SMALLEST_MAX_BYTES),
        )
        classroom = Classroom(model, self._teacher_options, fetcher, when_taken=self._note_taken)
        self._bound = _Bound(model, outputs_to_logits, fetcher, classroom)

    @override
    def begin(self, progress: Progress) -> None:
        if self._publisher is not None:
            return
        bound = self._check_open()
        self._step = progress.step
        publisher = self._begin_life(bound.fetcher)
        publisher.tell("running", progress, {})
        bound.reader = self._make_reader(bound)
        if self._saved is not None:
            self._take_saved(bound, self._saved, bound.reader)
        else:
            if self._lockstep is not None or self._membership.start_with_peers > 0:
                self._publish(publisher, bound, progress, finished=False)
            bound.reader.meet(progress.step)
        self._publisher = publisher
        self.counters.bytes_fetched = bound.fetcher.bytes_read

    @override
    def predict(self, inputs: Any, logits: Tensor | None) -> Predictions:
        bound = self._check_open()
        return bound.classroom.predict(inputs, bound.outputs_to_logits)

    @override
    def step(self, progress: Progress) -> None:
        bound = self._check_open()
        self._step = progress.step
        self.counters.fetched.clear()
        if self._publisher is None or bound.reader is None or progress.step % self.interval_steps != 0:
            return
        if self._lockstep is not None:
            self._publish(self._publisher, bound, progress, finished=False)
        else:
            with self._notices.instead_of_store_errors("publish"):
                self._publish(self._publisher, bound, progress, finished=False)
        bound.reader.update(progress.step)
        with self._notices.instead_of_store_errors("status"):
            self._publisher.tell("running", progress, bound.classroom.orders)
        self.counters.bytes_fetched = bound.fetcher.bytes_read

    @property
    @override
    def teachers(self) -> Mapping[str, TeacherInfo]:
        return {} if self._bound is None else self._bound.classroom.describe(self._step)

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._publisher is None or self._bound is None:
            return {} if self._saved is None else self._saved.to_dict()
        return SavedState(
            peer=self._peer,
            run_id=self._run_id,
            incarnation=self._publisher.life.incarnation,
            previous=self._publisher.previous,
            kept=self._publisher.kept,
            teachers=self._bound.classroom.save(),
        ).to_dict()

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._publisher is not None:
            raise RuntimeError(
                "State must be loaded before the first loss(), got it after. "
                "Call load_state_dict where the model's own state is loaded."
            )
        saved = SavedState.from_dict(state) if state else None
        if saved is not None and saved.peer != self._peer:
            raise ValueError(
                f"state must be of peer {self._peer!r}, got that of {saved.peer!r}. "
                "Load the file that this peer saved."
            )
        if saved is not None and saved.run_id != self._run_id:
            self._notices.say(
                "other run",
                f"Peer {self._peer!r} resumes in another run than it was saved in: neither its past nor its "
                f"teachers are at {self._store.describe()}, so it starts there as a new peer.",
            )
            saved = None
        self._saved = saved

    @override
    def close(self, progress: Progress, *, publish: bool) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._publisher is None or self._bound is None:
            return
        with self._notices.instead_of_store_errors("close"):
            if publish:
                self._publish(self._publisher, self._bound, progress, finished=True)
            self._publisher.tell("finished" if publish else "left", progress, self._bound.classroom.orders)
        self.counters.bytes_fetched = self._bound.fetcher.bytes_read

    def _check_open(self) -> "_Bound":
        if self._is_closed:
            raise RuntimeError(f"Peer {self._peer!r} has been closed. Make a new Codistiller to train on.")
        if self._bound is None:
            raise RuntimeError("exchange must be given to a Codistiller before it is used.")
        return self._bound

    def _begin_life(self, fetcher: Fetcher) -> Publisher:
        own = fetcher.pointer(self._peer)
        known = [] if own is None else [own.incarnation]
        if self._saved is not None:
            known.append(self._saved.incarnation)
            previous, kept = self._saved.previous, self._saved.kept
        elif own is None:
            previous, kept = None, ()
        else:
            if not self._membership.rejoin:
                check_new(fetcher.manifest(own.manifest), self._store)
            previous, kept = own.manifest, (own.order,)
        life = Life(
            run_id=self._run_id,
            peer=self._peer,
            incarnation=claim_life(self._store, self._peer, after=max(known, default=None)),
            interval_steps=self.interval_steps,
            metadata=self._snapshots.metadata or {},
        )
        keep = None if self._lockstep is not None else self._snapshots.keep or _KEPT_BY_DEFAULT
        return Publisher(self._store, life, keep=keep, previous=previous, kept=kept)

    def _make_reader(self, bound: "_Bound") -> Reader:
        finder = PeerFinder(
            self._store,
            bound.fetcher,
            peer=self._peer,
            peers=self._peers,
            topology=self._topology,
            max_teachers=self._teacher_options.max_teachers,
        )
        if self._lockstep is None:
            return NewestReader(
                finder,
                bound.fetcher,
                bound.classroom,
                self._notices,
                membership=self._membership,
                clock=self.clock,
            )
        return LockstepReader(
            finder,
            self._store,
            bound.fetcher,
            bound.classroom,
            interval_steps=self.interval_steps,
            timeout_s=self._lockstep.timeout_s,
            clock=self.clock,
        )

    def _take_saved(self, bound: "_Bound", saved: SavedState, reader: Reader) -> None:
        """Take the very snapshots that the teachers held when the state was saved."""
        for peer, teacher in saved.teachers.items():
            try:
                manifest = bound.fetcher.manifest(teacher.manifest)
                bound.classroom.take(manifest, teacher.manifest, first_seen_step=teacher.first_seen_step)
            except (SnapshotError, StoreError) as error:
                if self._lockstep is not None:
                    raise
                self._notices.say(
                    "saved teachers",
                    f"The snapshot of peer {peer!r} that this run had when it was saved cannot be read "
                    f"any more ({error}). Its newest one is taken instead.",
                )
                reader.update(self._step)

    def _publish(self, publisher: Publisher, bound: "_Bound", progress: Progress, *, finished: bool) -> None:
        written = publisher.publish(named_tensors(bound.model), progress, finished=finished)
        self.counters.bytes_published += written
        self.counters.publishes += 1
        self._own_digests = publisher.digests

    def _note_taken(self, manifest: Manifest) -> None:
        self.counters.fetched.append(manifest.peer)
        if self._own_digests.get(manifest.step) == manifest.content_digest:
            self._notices.say(
                "identical",
                f"Peers {self._peer!r} and {manifest.peer!r} have identical weights at step {manifest.step}: "
                "while they have, the distillation loss is 0 and teaches nothing. "
                "Seed every peer differently, its initialisation and its order of data.",
            )


@dataclass(slots=True)
class _Bound:
    """What there is once the exchange knows the student."""

    model: nn.Module
    outputs_to_logits: Callable[[Any], Tensor] | None
    fetcher: Fetcher
    classroom: Classroom
    reader: Reader | None = None


def _at_least_1(argument: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an int, got {type(value).__name__}.")
    if value < 1:
        raise ValueError(
            f"{argument} must be >= 1, got {value}. To train without peers, leave out the Codistiller."
        )
    return value


def _check_lockstep(
    peers: tuple[str, ...] | None, snapshots: SnapshotOptions, membership: Membership
) -> None:
    if peers is None:
        raise ValueError("peers must be given in lockstep, got None. Name everybody who takes part.")
    if snapshots.keep is not None:
        raise ValueError(
            f"keep must be None in lockstep, got {snapshots.keep}. A peer that resumes needs all snapshots."
        )
    if membership.rejoin:
        raise ValueError(
            "rejoin must be False in lockstep, where all peers start together. Choose an empty store."
        )
    if membership.start_with_peers:
        warnings.warn(
            "start_with_peers has no effect in lockstep, where every peer waits for all others.",
            CodistillWarning,
            stacklevel=3,
        )
