"""Exchange of weights through a store."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from torch import Tensor, nn
from typing_extensions import override

from codistill.arguments import check_int, check_type
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
from codistill.exchange.checkpoint.saved_state import SavedState
from codistill.exchange.checkpoint.waiting import Clock
from codistill.exchange.teachers import TeacherOptions
from codistill.parallel.weights import named_tensors
from codistill.snapshots.codec import check_state
from codistill.snapshots.keys import check_peer_name
from codistill.snapshots.manifest import Manifest
from codistill.stores.base import Store
from codistill.stores.opening import open_store
from codistill.topologies import Topology, as_topology

_KEPT_BY_DEFAULT = 2
_SIZE_ALLOWANCE = 4
_SMALLEST_MAX_BYTES = 2**20

Options = TypeVar("Options", SnapshotOptions, TeacherOptions, Membership)


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

    Example:
        >>> import tempfile
        >>> store = tempfile.mkdtemp()
        >>> exchange = CheckpointExchange(store, peer="a", peers=["a", "b"], interval_steps=500)
        >>> exchange.interval_steps, dict(exchange.teachers)
        (500, {})
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
        hint = "To train without peers, leave out the Codistiller."
        self.interval_steps = check_int("interval_steps", interval_steps, minimum=1, hint=hint)
        self.counters = ExchangeCounters()
        self._peer = check_peer_name(peer)
        self._snapshots = _option("snapshots", snapshots, SnapshotOptions)
        self._teacher_options = _option("teachers", teachers, TeacherOptions)
        self._membership = _option("membership", membership, Membership)
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
            check_type("lockstep", self._lockstep, Lockstep)
            _check_lockstep(self._peers, self._snapshots, self._membership)
        self._store = open_store(store)
        self._run_id = open_run(self._store)
        self._notices = Notices()
        self._saved: SavedState | None = None
        self._own_digests: Mapping[int, str] = {}
        self._step = 0
        self._is_closed = False
        self._model: nn.Module | None = None
        self._outputs_to_logits: Callable[[Any], Tensor] | None = None
        self._life: _Life | None = None

    @override
    def bind(self, model: nn.Module, outputs_to_logits: Callable[[Any], Tensor] | None) -> None:
        if self._model is not None:
            raise ValueError(
                "exchange must be used by one Codistiller only, got a second. Make a new exchange."
            )
        self._model = model
        self._outputs_to_logits = outputs_to_logits

    @override
    def begin(self, progress: Progress) -> None:
        model = self._check_open()
        if self._life is not None:
            return
        self._step = progress.step
        life = self._begin_life(model)
        try:
            life.publisher.tell("running", progress, {})
            self._meet_teachers(life, progress)
        except BaseException:
            with suppress(StoreError):
                life.publisher.tell("left", progress, {})
            raise
        self._life = life
        self.counters.bytes_fetched = life.fetcher.bytes_read

    @override
    def predict(self, inputs: Any, logits: Tensor | None) -> Predictions:
        self._check_open()
        if self._life is None:
            raise RuntimeError(
                "predict() must follow begin(), got none. Use the exchange through a Codistiller."
            )
        return self._life.classroom.predict(inputs, self._outputs_to_logits)

    @override
    def step(self, progress: Progress) -> None:
        self._check_open()
        self._step = progress.step
        self.counters.fetched.clear()
        life = self._life
        if life is None or progress.step % self.interval_steps != 0:
            return
        if self._lockstep is not None:
            self._publish(life, progress, finished=False)
        else:
            with self._notices.instead_of_store_errors("publish"):
                self._publish(life, progress, finished=False)
        life.reader.update(progress.step)
        with self._notices.instead_of_store_errors("status"):
            life.publisher.tell("running", progress, life.classroom.orders)
        self.counters.bytes_fetched = life.fetcher.bytes_read

    @property
    @override
    def teachers(self) -> Mapping[str, TeacherInfo]:
        return {} if self._life is None else self._life.classroom.describe(self._step)

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._life is None:
            return {} if self._saved is None else self._saved.to_dict()
        return SavedState(
            peer=self._peer,
            run_id=self._run_id,
            incarnation=self._life.publisher.life.incarnation,
            previous=self._life.publisher.previous,
            teachers=self._life.classroom.save(),
        ).to_dict()

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._life is not None:
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
        life = self._life
        if life is None:
            return
        if publish and self._lockstep is not None:
            # The others wait for it: they must not be left without a word.
            self._publish(life, progress, finished=True)
        with self._notices.instead_of_store_errors("close"):
            if publish and self._lockstep is None:
                self._publish(life, progress, finished=True)
            life.publisher.tell("finished" if publish else "left", progress, life.classroom.orders)
        self.counters.bytes_fetched = life.fetcher.bytes_read

    def _check_open(self) -> nn.Module:
        """Return the student, if there is one and this is its life."""
        if self._is_closed:
            raise RuntimeError(f"Peer {self._peer!r} has been closed. Make a new Codistiller to train on.")
        if self._model is None:
            raise RuntimeError("exchange must be given to a Codistiller first, got no student.")
        return self._model

    def _begin_life(self, model: nn.Module) -> "_Life":
        tensors = named_tensors(model)
        check_state(tensors)
        fetcher = Fetcher(
            self._store,
            run_id=self._run_id,
            max_bytes=self._snapshots.max_bytes
            or max(_SIZE_ALLOWANCE * sum(tensor.nbytes for tensor in tensors.values()), _SMALLEST_MAX_BYTES),
        )
        classroom = Classroom(model, self._teacher_options, fetcher, when_taken=self._note_taken)
        publisher = self._make_publisher(fetcher)
        return _Life(model, fetcher, classroom, publisher, self._make_reader(fetcher, classroom))

    def _make_publisher(self, fetcher: Fetcher) -> Publisher:
        own = fetcher.pointer(self._peer)
        if own is not None and self._saved is None and not self._membership.rejoin:
            check_new(fetcher.manifest(own.manifest), self._store)
        newest = None if own is None else own.manifest
        saved = self._saved
        incarnations = [pointed.incarnation for pointed in (own, saved) if pointed is not None]
        life = Life(
            run_id=self._run_id,
            peer=self._peer,
            incarnation=claim_life(self._store, self._peer, after=max(incarnations, default=None)),
            interval_steps=self.interval_steps,
            metadata=self._snapshots.metadata or {},
        )
        if self._lockstep is not None:
            # What was published after the state was saved is published again, the same to the bit.
            previous = newest if saved is None else saved.previous
            return Publisher(self._store, life, keep=None, previous=previous)
        return Publisher(
            self._store,
            life,
            keep=self._snapshots.keep or _KEPT_BY_DEFAULT,
            previous=newest,
            kept=fetcher.chain(newest),
        )

    def _make_reader(self, fetcher: Fetcher, classroom: Classroom) -> NewestReader | LockstepReader:
        finder = PeerFinder(
            self._store,
            fetcher,
            peer=self._peer,
            peers=self._peers,
            topology=self._topology,
            max_teachers=self._teacher_options.max_teachers,
        )
        if self._lockstep is None:
            return NewestReader(
                finder, fetcher, classroom, self._notices, membership=self._membership, clock=self.clock
            )
        return LockstepReader(
            finder,
            self._store,
            fetcher,
            classroom,
            interval_steps=self.interval_steps,
            timeout_s=self._lockstep.timeout_s,
            clock=self.clock,
        )

    def _meet_teachers(self, life: "_Life", progress: Progress) -> None:
        if self._saved is not None:
            self._take_saved(life, self._saved)
            return
        if self._lockstep is not None or self._membership.start_with_peers > 0:
            self._publish(life, progress, finished=False)
        life.reader.meet(progress.step)

    def _take_saved(self, life: "_Life", saved: SavedState) -> None:
        """Take the very snapshots that the teachers held when the state was saved."""
        for peer, teacher in saved.teachers.items():
            try:
                manifest = life.fetcher.manifest(teacher.manifest)
                life.classroom.take(manifest, teacher.manifest, first_seen_step=teacher.first_seen_step)
            except (SnapshotError, StoreError) as error:
                if isinstance(life.reader, LockstepReader):
                    raise
                self._notices.say(
                    "saved teachers",
                    f"The snapshot of peer {peer!r} that this run had when it was saved cannot be read "
                    f"any more ({error}). Its newest one is taken instead.",
                )
                life.reader.take_newest_of(peer, self._step)
        if self._lockstep is not None and self._step % self.interval_steps == 0:
            # State that was saved while a peer was missing lacks the snapshots of its own step.
            life.reader.update(self._step)

    def _publish(self, life: "_Life", progress: Progress, *, finished: bool) -> None:
        written = life.publisher.publish(named_tensors(life.model), progress, finished=finished)
        self.counters.bytes_published += written
        self.counters.publishes += 1
        self._own_digests = life.publisher.digests

    def _note_taken(self, manifest: Manifest) -> None:
        self.counters.fetched.append(manifest.peer)
        if self._own_digests.get(manifest.step) == manifest.content_digest:
            self._notices.say(
                "identical",
                f"Peers {self._peer!r} and {manifest.peer!r} have identical weights at step {manifest.step}: "
                "while they have, the distillation loss is 0 and teaches nothing. "
                "Seed every peer differently, its initialisation and its order of data.",
            )


@dataclass(frozen=True, slots=True)
class _Life:
    """What there is from the first loss on."""

    model: nn.Module
    fetcher: Fetcher
    classroom: Classroom
    publisher: Publisher
    reader: NewestReader | LockstepReader


def _option(argument: str, value: Options | None, kind: type[Options]) -> Options:
    if value is None:
        return kind()
    check_type(argument, value, kind)
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
