"""What of a peer speaks with the store."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from torch import Tensor, nn

from codistill.errors import SnapshotFormatError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.heartbeat import Heartbeat
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.lives import check_name_is_free, check_new, claim_life, open_run
from codistill.exchange.checkpoint.lockstep import LockstepReader
from codistill.exchange.checkpoint.membership import PeerFinder
from codistill.exchange.checkpoint.newcomers import Newcomers
from codistill.exchange.checkpoint.newest import NewestReader
from codistill.exchange.checkpoint.publisher import Publisher
from codistill.exchange.checkpoint.retention import Retention
from codistill.exchange.checkpoint.roster import Order
from codistill.exchange.checkpoint.saved_state import SavedState
from codistill.exchange.checkpoint.settings import Settings
from codistill.exchange.checkpoint.waiting import Clock
from codistill.parallel.weights import is_sharded, named_tensors
from codistill.snapshots.fingerprint import describe_difference
from codistill.snapshots.keys import parse_snapshot_name, snapshots_prefix
from codistill.snapshots.manifest import Manifest
from codistill.snapshots.pointer import Pointer
from codistill.snapshots.staging import Staging
from codistill.stores.base import Store

_KEPT_BY_DEFAULT: Final = 2
_SIZE_ALLOWANCE: Final = 4
_SMALLEST_MAX_BYTES: Final = 2**20
_MOST_LISTED: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSide:
    """The parts of a peer that read and write the store, of one life; rank 0 alone has them."""

    run_id: str
    """The run."""
    source: nn.Module
    """The module whose weights are published."""
    staging: Staging | None
    """Where they are put together, used by one publish at a time; None if each rank writes its own part."""
    fetcher: Fetcher
    """Reads."""
    publisher: Publisher
    """Writes snapshots."""
    heartbeat: Heartbeat
    """Writes the status."""
    finder: PeerFinder
    """Knows who takes part."""
    saved: SavedState | None
    """What is known of this peer's past in this run."""

    @classmethod
    def open(
        cls, store: Store, settings: Settings, model: nn.Module, saved: SavedState | None, *, clock: Clock
    ) -> Self:
        """Open the run, or make it, and claim a life in it.

        **Blocks**: while the store is read; 15 s if a former life of this name was not closed.

        Args:
            store: The run's store.
            settings: What the user has chosen.
            model: The student.
            saved: What an earlier life remembered; dropped if it was in another run.
            clock: To wait by.

        Raises:
            RunExistsError: If the peer would write over its own training.
            PeerTakenError: If another live job has its name.
            SnapshotError, StoreError: If the store cannot be used, or what lies in it.
        """
        # Before a name may be watched, which is a part of what this life waits for.
        began_s = clock.monotonic()
        source = settings.source(model)
        tensors = named_tensors(source)
        staging = None if is_sharded(source) else Staging(tensors, codec=settings.snapshots.codec)
        _check_source(tensors, model)
        run_id = open_run(store)
        saved = saved if saved is not None and saved.run_id == run_id else None
        fetcher = open_fetcher(store, settings, model, run_id=run_id)
        own = _own_pointer(fetcher, settings, saved)
        # First: that another job lives under this name says more than that it has trained.
        check_name_is_free(store, settings.peer, clock=clock)
        if own is not None and saved is None and not settings.membership.rejoin:
            check_new(fetcher.manifest(own.manifest), store)
        incarnations = [pointed.incarnation for pointed in (own, saved) if pointed is not None]
        life = Life(
            run_id=run_id,
            peer=settings.peer,
            incarnation=claim_life(store, settings.peer, after=max(incarnations, default=None)),
            interval_steps=settings.interval_steps,
            metadata=settings.snapshots.metadata or {},
        )
        finder = PeerFinder(
            store,
            fetcher,
            peer=settings.peer,
            peers=settings.peers,
            topology=settings.topology,
            max_teachers=settings.teachers.max_teachers,
        )
        heartbeat = Heartbeat(store, life, clock=clock, began_s=began_s)
        return cls(
            run_id=run_id,
            source=source,
            staging=staging,
            fetcher=fetcher,
            publisher=_make_publisher(store, heartbeat, settings, own, saved, finder, clock),
            heartbeat=heartbeat,
            finder=finder,
            saved=saved,
        )

    def newest_reader(
        self, store: Store, settings: Settings, check_fits: Callable[[Manifest], None], *, clock: Clock
    ) -> NewestReader:
        """Return what reads while running free."""
        return NewestReader(
            self.finder,
            self.fetcher,
            self.heartbeat,
            Newcomers(store, self.fetcher, clock=clock),
            fading=settings.membership.fading(settings.interval_steps),
            check_fits=check_fits,
        )

    def lockstep_reader(
        self,
        store: Store,
        settings: Settings,
        check_fits: Callable[[Manifest], None],
        *,
        timeout_s: float,
        clock: Clock,
    ) -> LockstepReader:
        """Return what reads in lockstep."""
        return LockstepReader(
            self.finder,
            store,
            self.fetcher,
            interval_steps=settings.interval_steps,
            timeout_s=timeout_s,
            clock=clock,
            check_fits=check_fits,
            heartbeat=self.heartbeat,
        )

    def stage(self) -> None:
        """Copy the weights as they are now, to be published."""
        assert self.staging is not None
        self.staging.fill(named_tensors(self.source))

    def publish(self, progress: Progress, *, finished: bool) -> int:
        """Publish what was staged last; return the bytes written.

        **Blocks**: until the store has taken everything; on any thread.

        Args:
            progress: How far the student was when it was staged.
            finished: No other will follow.
        """
        assert self.staging is not None
        return self.publisher.publish(self.staging.encode(), progress, finished=finished)


def open_fetcher(store: Store, settings: Settings, model: nn.Module, *, run_id: str) -> Fetcher:
    """Return what reads snapshots for a student; each rank may have one.

    Args:
        store: The run's store.
        settings: What the user has chosen.
        model: The student.
        run_id: The run.
    """
    tensors = named_tensors(model)
    return Fetcher(
        store,
        run_id=run_id,
        max_bytes=settings.snapshots.max_bytes or _default_max_bytes(tensors),
        signing_key=settings.signing_key,
        is_pinned=any(tensor.is_cuda for tensor in tensors.values()),
    )


def _make_publisher(
    store: Store,
    heartbeat: Heartbeat,
    settings: Settings,
    own: Pointer | None,
    saved: SavedState | None,
    finder: PeerFinder,
    clock: Clock,
) -> Publisher:
    life = heartbeat.life
    newest = None if own is None else own.manifest
    codec, key = settings.snapshots.codec, settings.signing_key
    if settings.lockstep is not None:
        # What was published after the state was saved is published again, the same to the bit.
        previous = newest if saved is None else saved.previous
        return Publisher(
            store,
            life,
            codec=codec,
            signing_key=key,
            is_still_ours=heartbeat.is_still_ours,
            previous=previous,
        )
    publisher = Publisher(
        store,
        life,
        codec=codec,
        signing_key=key,
        keep=settings.snapshots.keep or _KEPT_BY_DEFAULT,
        retention=Retention(store, peer=life.peer, others=finder.others, clock=clock),
        is_still_ours=heartbeat.is_still_ours,
        previous=newest,
        kept=_own_snapshots(store, life.peer),
    )
    if own is not None or not _may_go_on(settings, saved):
        publisher.delete_unfinished(after=None if own is None else own.order)
    return publisher


def _may_go_on(settings: Settings, saved: SavedState | None) -> bool:
    """Return whether this job may write over what the peer has published before."""
    return saved is not None or settings.membership.rejoin


def _own_pointer(fetcher: Fetcher, settings: Settings, saved: SavedState | None) -> Pointer | None:
    """Return the pointer to this peer's newest snapshot; None if there is none.

    A pointer that was damaged on its disk must not keep the peer from coming back: the next publish
    replaces it. What another run or another key has signed is no accident, and is raised.
    """
    try:
        return fetcher.pointer(settings.peer)
    except SnapshotFormatError:
        if not _may_go_on(settings, saved):
            raise
        return None


def _own_snapshots(store: Store, peer: str) -> list[Order]:
    names = store.list_names(snapshots_prefix(peer), limit=_MOST_LISTED)
    orders = [parse_snapshot_name(name) for name in names]
    return sorted(order for order in orders if order is not None)


def _default_max_bytes(tensors: Mapping[str, Tensor]) -> int:
    own_bytes = sum(tensor.nbytes for tensor in tensors.values())
    return max(_SIZE_ALLOWANCE * own_bytes, _SMALLEST_MAX_BYTES)


def _check_source(tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    difference = describe_difference(
        {name: tensor.shape for name, tensor in tensors.items()},
        {name: tensor.shape for name, tensor in named_tensors(model).items()},
    )
    if difference is not None:
        raise ValueError(
            f"publish_from must have the student's names and shapes, got a module of which {difference}. "
            "Pass a copy of the student, or torch.optim.swa_utils.AveragedModel of it."
        )
