"""Exchange of weights through a store."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, final

from torch import Tensor, nn
from typing_extensions import override

from codistill.exchange.base import (
    DistillationSettings,
    Exchange,
    ExchangeCounters,
    Predictions,
    Progress,
    TeacherInfo,
)
from codistill.exchange.checkpoint.agreement import Agreement
from codistill.exchange.checkpoint.background import Background, Threads
from codistill.exchange.checkpoint.classroom import Classroom
from codistill.exchange.checkpoint.fading import Fading
from codistill.exchange.checkpoint.free_pace import FreePace
from codistill.exchange.checkpoint.lockstep import Lockstep
from codistill.exchange.checkpoint.lockstep_pace import LockstepPace
from codistill.exchange.checkpoint.membership import Membership
from codistill.exchange.checkpoint.pace import Pace, Parts
from codistill.exchange.checkpoint.part_reader import PartReader
from codistill.exchange.checkpoint.publisher import SnapshotOptions
from codistill.exchange.checkpoint.saved_state import SavedState
from codistill.exchange.checkpoint.settings import Settings
from codistill.exchange.checkpoint.shard_writer import ShardWriter
from codistill.exchange.checkpoint.store_side import StoreSide, open_fetcher
from codistill.exchange.checkpoint.waiting import Clock
from codistill.exchange.notices import Notices
from codistill.exchange.teacher_options import TeacherOptions
from codistill.exchange.teachers import check_can_be_copied
from codistill.parallel.group import PeerRanks
from codistill.parallel.weights import is_sharded, named_tensors
from codistill.stores.base import Store
from codistill.stores.opening import open_store
from codistill.topologies import Topology

_STOP_S: Final = 5.0


@final
class CheckpointExchange(Exchange):
    """Peers publish snapshots of their weights in a store, and run stale copies of one another's.

    The exchange of Anil et al. 2018 (section 2.1) and Sodhani et al. 2020 (section 2): every
    ``interval_steps`` optimizer steps a peer publishes and looks for what the others have published by
    then. It waits for nobody, unless in lockstep: threads write and read, and teachers change at the next
    step boundary at which all of a new snapshot is there.

    **Ranks**: all ranks of the peer. Each opens the store when it is made, which tries whether it can be
    written; from then on rank 0 alone reads and writes it, and the others get the bytes from rank 0. Where
    ranks divide a model among them (``fully_shard``), each writes its own shard and reads its own part.
    They change teachers, and raise, at the same step.
    **Blocks**: at the start, while the store is read. Afterwards only in lockstep: at each interval, until
    all peers are there.
    **On failure**: out of lockstep, a store that fails and a snapshot that is damaged or does not fit
    are warned of once; training goes on with the last good teachers, and later intervals try again.
    At the start with ``start_with_peers``, and in lockstep, they are raised.

    Attributes:
        clock: What waits are measured by, ``time`` unless replaced before the first loss.
        background: Where work is done beside training: threads, unless replaced before the first loss.

    Example:
        >>> import tempfile
        >>> store = tempfile.mkdtemp()
        >>> exchange = CheckpointExchange(store, peer="a", peers=["a", "b"], interval_steps=500)
        >>> exchange.interval_steps, dict(exchange.teachers)
        (500, {})
    """

    clock: Clock = time
    background: Background

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
            store: A folder that all peers see, a URL of an object store, or a ``Store``; one for each run.
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
        self._settings = Settings.of(
            peer=peer,
            peers=peers,
            interval_steps=interval_steps,
            topology=topology,
            lockstep=lockstep,
            snapshots=snapshots,
            teachers=teachers,
            membership=membership,
        )
        self.interval_steps = self._settings.interval_steps
        self.is_lockstep = self._settings.lockstep is not None
        self.counters = ExchangeCounters()
        self.background = Threads()
        self._store = open_store(store)
        self._owns_store = self._store is not store
        self._notices = Notices()
        self._saved: SavedState | None = None
        self._step = 0
        self._is_closed = False
        self._process = os.getpid()
        self._model: nn.Module | None = None
        self._outputs_to_logits: Callable[[Any], Tensor] | None = None
        self._class_dim: int | None = None
        self._ranks = PeerRanks()
        self._life: _Life | None = None

    @override
    def bind(
        self,
        model: nn.Module,
        outputs_to_logits: Callable[[Any], Tensor] | None,
        ranks: PeerRanks | None = None,
        settings: DistillationSettings | None = None,
    ) -> None:
        if self._model is not None:
            raise ValueError(
                "exchange must be used by one Codistiller only, got a second. Make a new exchange."
            )
        self._model = model
        self._outputs_to_logits = outputs_to_logits
        if ranks is not None:
            self._ranks = ranks
        # In lockstep whatever cannot be used is raised, by the loss.
        if settings is not None and settings.divergence.acts_on != "one_logit" and not self.is_lockstep:
            self._class_dim = settings.divergence.class_dim

    @override
    def begin(self, progress: Progress) -> None:
        model = self._check_open()
        if self._life is not None:
            return
        self._step = progress.step
        if self._settings.teachers.build is None:
            # Now, rather than when the first teacher comes, perhaps hours later.
            check_can_be_copied(model)
        life = self._begin_life(model)
        try:
            life.pace.begin(progress)
        except BaseException:
            self.background.stop(_STOP_S)
            raise
        self._life = life

    @override
    def predict(self, inputs: Any, logits: Tensor | None) -> Predictions:
        self._check_open()
        if self._life is None:
            raise RuntimeError(
                "predict() must follow begin(), got none. Use the exchange through a Codistiller."
            )
        return self._life.classroom.predict(inputs, self._outputs_to_logits, logits=logits)

    @override
    def step(self, progress: Progress) -> None:
        self._check_open()
        self._step = progress.step
        self.counters.fetched.clear()
        if self._life is not None:
            self._life.pace.step(progress)

    @property
    @override
    def teachers(self) -> Mapping[str, TeacherInfo]:
        return {} if self._life is None else self._life.classroom.describe()

    @override
    def state_dict(self) -> dict[str, Any]:
        life = self._life
        if life is None:
            return {} if self._saved is None else self._saved.to_dict()
        return SavedState(
            peer=self._settings.peer,
            run_id=life.run_id,
            incarnation=life.incarnation,
            previous=None if life.side is None else life.side.publisher.previous,
            teachers=life.classroom.save(),
            seen=life.pace.seen,
            is_of_rank_0=self._ranks.rank == 0,
        ).to_dict()

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._life is not None:
            raise RuntimeError(
                "State must be loaded before the first loss(), got it after. "
                "Call load_state_dict where the model's own state is loaded."
            )
        saved = SavedState.from_dict(state) if state else None
        if saved is not None and saved.peer != self._settings.peer:
            raise ValueError(
                f"state must be of peer {self._settings.peer!r}, got that of {saved.peer!r}. "
                "Load the file that this peer saved."
            )
        if saved is not None and self._ranks.rank == 0 and not saved.is_of_rank_0:
            raise ValueError(
                "state must be what rank 0 saved, got that of another rank, which does not know what was "
                "published and seen. Save Codistiller.state_dict() on rank 0 and load it on all."
            )
        self._saved = saved

    @override
    def close(self, progress: Progress, *, publish: bool, timeout_s: float = 60.0) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        # A process that was forked off must leave its parent's life alone.
        if self._life is not None and self._process == os.getpid():
            self._life.pace.close(progress, publish=publish, timeout_s=timeout_s)
        if self._owns_store:
            self._store.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "CheckpointExchange cannot be pickled or copied: it belongs to one process and one student. "
            "Make it where it is used."
        )

    def _check_open(self) -> nn.Module:
        """Return the student, if there is one and this is its life."""
        if self._is_closed:
            raise RuntimeError(
                f"Peer {self._settings.peer!r} has been closed. Make a new Codistiller to train on."
            )
        if self._model is None:
            raise RuntimeError("exchange must be given to a Codistiller first, got no student.")
        if self._process != os.getpid():
            raise RuntimeError(
                f"Peer {self._settings.peer!r} belongs to the process that made it, got a fork of that. "
                "Make a new Codistiller in the process that trains."
            )
        return self._model

    def _begin_life(self, model: nn.Module) -> "_Life":
        self._ranks.connect()
        self._check_ranks_are_at_one_step()
        side = Agreement(self._ranks).do(lambda: self._open_side(model))
        run_id, incarnation = self._tell_all_ranks(side)
        # In lockstep nothing is stale: whoever is waited for is there, and a finished peer's last serves.
        fading = (
            Fading(max_age_steps=1, when_stale="keep")
            if self.is_lockstep
            else self._settings.membership.fading(self.interval_steps)
        )
        classroom = Classroom(model, self._settings.teachers, fading, class_dim=self._class_dim)
        if side is None:
            fetcher = open_fetcher(self._store, self._settings, model, run_id=run_id)
        else:
            fetcher = side.fetcher
        parts = Parts(
            settings=self._settings,
            ranks=self._ranks,
            classroom=classroom,
            background=self.background,
            side=side,
            parts=PartReader(classroom, fetcher),
            writer=Agreement(self._ranks).do(lambda: self._open_writer(model, incarnation)),
            notices=self._notices,
            counters=self.counters,
            is_pinned=any(tensor.is_cuda for tensor in named_tensors(model).values()),
        )
        return _Life(run_id, incarnation, side, classroom, self._make_pace(parts))

    def _open_writer(self, model: nn.Module, incarnation: int) -> ShardWriter | None:
        """Return what writes this rank's shard; None if rank 0 writes everything."""
        source = self._settings.source(model)
        if not is_sharded(source):
            return None
        return ShardWriter.open(
            self._store,
            source,
            peer=self._settings.peer,
            incarnation=incarnation,
            codec=self._settings.snapshots.codec,
            ranks=self._ranks,
        )

    def _check_ranks_are_at_one_step(self) -> None:
        """Refuse ranks of which only some have loaded a state: they would never meet again."""
        last, first = self._ranks.maximum([self._step, -self._step])
        if last != -first:
            raise ValueError(
                f"All ranks of a peer must be at one step, got steps from {-first} to {last}. "
                "Load the state_dict on every rank."
            )

    def _open_side(self, model: nn.Module) -> StoreSide | None:
        """Return what speaks with the store, which only rank 0 does."""
        if self._ranks.rank != 0:
            return None
        side = StoreSide.open(self._store, self._settings, model, self._saved, clock=self.clock)
        if self._saved is not None and side.saved is None:
            self._notices.say(
                "other run",
                f"Peer {self._settings.peer!r} resumes in another run than it was saved in: neither its past "
                f"nor its teachers are at {self._store.describe()}, so it starts there as a new peer.",
            )
        return side

    def _tell_all_ranks(self, side: StoreSide | None) -> tuple[str, int]:
        """Return run and incarnation, which every rank's state_dict names."""
        told = None if side is None else json.dumps([side.run_id, side.publisher.life.incarnation]).encode()
        run_id, incarnation = json.loads(self._ranks.broadcast(told))
        return run_id, incarnation

    def _make_pace(self, parts: Parts) -> Pace:
        side, lockstep = parts.side, self._settings.lockstep
        check_fits = parts.classroom.check_fits
        if lockstep is None:
            newest = (
                None
                if side is None
                else side.newest_reader(self._store, self._settings, check_fits, clock=self.clock)
            )
            return FreePace(parts, newest, clock=self.clock)
        reader = None
        if side is not None:
            reader = side.lockstep_reader(
                self._store,
                self._settings,
                check_fits,
                timeout_s=lockstep.timeout_s,
                clock=self.clock,
            )
        return LockstepPace(parts, reader)


@dataclass(frozen=True, slots=True)
class _Life:
    """What begins with ``begin``."""

    run_id: str
    incarnation: int
    side: StoreSide | None
    classroom: Classroom
    pace: Pace
