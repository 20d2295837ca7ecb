"""What running free and lockstep have in common: how a peer begins, changes its teachers, and ends."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import final

from codistill.errors import SnapshotError, SnapshotMismatchError, StoreError
from codistill.exchange.base import ExchangeCounters, Progress
from codistill.exchange.checkpoint.agreement import Agreement
from codistill.exchange.checkpoint.background import Background
from codistill.exchange.checkpoint.changes import Changes
from codistill.exchange.checkpoint.classroom import Classroom
from codistill.exchange.checkpoint.delivery import Delivery
from codistill.exchange.checkpoint.lives import HEARTBEAT_S
from codistill.exchange.checkpoint.part_reader import NotFiniteError, PartReader
from codistill.exchange.checkpoint.publishing import Published, Publishing
from codistill.exchange.checkpoint.reader import Reader
from codistill.exchange.checkpoint.roster import Roster, Sighted
from codistill.exchange.checkpoint.settings import Settings
from codistill.exchange.checkpoint.shard_writer import ShardWriter
from codistill.exchange.checkpoint.sharded_publishing import ShardedPublishing
from codistill.exchange.checkpoint.sighting import Arrival, Discovery, Look
from codistill.exchange.checkpoint.store_side import StoreSide
from codistill.exchange.checkpoint.whole_publishing import WholePublishing
from codistill.exchange.notices import Notices
from codistill.parallel.group import PeerRanks


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a peer is made of on one rank."""

    settings: Settings
    """What the user has chosen."""
    ranks: PeerRanks
    """The ranks of the peer."""
    classroom: Classroom
    """The teachers."""
    background: Background
    """Where work is done that does not concern the student."""
    side: StoreSide | None
    """What speaks with the store; on rank 0."""
    parts: PartReader
    """Reads this rank's part of snapshots that the ranks divide among them."""
    writer: ShardWriter | None
    """Writes this rank's shard, where the ranks divide the published module among them."""
    notices: Notices
    """What has been said."""
    counters: ExchangeCounters
    """What has been counted."""
    is_pinned: bool
    """Whether weights go on to a GPU."""


# From bad to worse: later it may be there, it never will, and nobody should learn from it.
_KINDS = (StoreError, SnapshotError, NotFiniteError)


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """A new snapshot that some rank cannot use."""

    found: Arrival | Discovery
    """The snapshot."""
    kind: type[Exception]
    """``StoreError``, ``SnapshotError`` or ``NotFiniteError``."""
    message: str
    """What that rank says."""

    @property
    def peer(self) -> str:
        """Whose it is."""
        return self.found.manifest.peer

    @property
    def is_nan(self) -> bool:
        """Whether it holds NaN."""
        return self.kind is NotFiniteError


class Pace(ABC):
    """When a peer publishes, looks for the others, and lets its teachers change.

    **Ranks**: all of the peer, every method at the same step.
    """

    def __init__(self, parts: Parts, reader: Reader | None) -> None:
        """Take over the parts of a peer.

        Args:
            parts: The parts.
            reader: Finds snapshots; on rank 0.
        """
        self._settings = parts.settings
        self._ranks = parts.ranks
        self._classroom = parts.classroom
        self._background = parts.background
        self._side = parts.side
        self._reader = reader
        self._notices = parts.notices
        self._counters = parts.counters
        self._has_told_taken = False
        self._agreement = Agreement(parts.ranks)
        self._parts = parts.parts
        self._delivery = Delivery(
            parts.ranks, parts.background.worker("decode"), parts.parts, is_pinned=parts.is_pinned
        )
        self._publish_worker = parts.background.worker("publish")
        self._publishing = self._make_publishing(parts)
        saved = parts.side.saved if parts.side is not None else None
        self._roster = Roster(saved.seen if saved is not None else None)

    def _make_publishing(self, parts: Parts) -> Publishing:
        if parts.writer is None:
            return WholePublishing(parts.side, self._publish_worker)
        return ShardedPublishing(
            parts.writer,
            None if parts.side is None else parts.side.publisher,
            ranks=parts.ranks,
            agreement=self._agreement,
            worker=self._publish_worker,
        )

    @property
    def seen(self) -> dict[str, Sighted]:
        """The newest snapshot that was seen of every peer; on rank 0."""
        return dict(self._roster.peers)

    @abstractmethod
    def begin(self, progress: Progress) -> None:
        """Find the teachers at the start of this life."""

    @abstractmethod
    def step(self, progress: Progress) -> None:
        """Do what is due after an optimizer step."""

    @abstractmethod
    def close(self, progress: Progress, *, publish: bool, timeout_s: float) -> None:
        """End this life."""

    def _look(self, progress: Progress) -> Look:
        return Look(
            progress=progress,
            roster=self._roster.copy(),
            held=self._classroom.orders,
            quarantined=self._classroom.quarantined,
            divided=self._classroom.divided,
            is_student_divided=self._classroom.is_student_divided,
        )

    def _saved_arrival(self, side: StoreSide, peer: str) -> Arrival | Discovery:
        """Return the very snapshot that a teacher held when the state was saved."""
        assert side.saved is not None
        teacher = side.saved.teachers[peer]
        manifest = side.fetcher.manifest(teacher.manifest)
        self._classroom.check_fits(manifest)
        if self._classroom.is_student_divided:
            return Discovery(
                manifest=manifest, reference=teacher.manifest, first_seen_step=teacher.first_seen_step
            )
        return side.fetcher.fetch(manifest, teacher.manifest, first_seen_step=teacher.first_seen_step)

    def _bring(self, changes: Changes | None, *, is_strict: bool) -> None:
        """Apply rank 0's changes on all ranks, having waited for them."""
        self._apply(self._bring_found(changes), is_strict=is_strict)

    def _bring_found(self, changes: Changes | None) -> Changes:
        """Return on all ranks what rank 0 has found, having waited for it."""
        self._agreement.do(lambda: self._delivery.announce(changes))
        return self._agreement.do(self._delivery.bring)

    def _apply(self, changes: Changes, *, is_strict: bool) -> None:
        """Let the teachers become what was decided; what fails on one rank fails on all.

        Args:
            changes: What was decided.
            is_strict: Raise if a snapshot cannot be read or does not fit what ``build`` made, in place of a
                notice.
        """
        changes = self._settle(changes, is_strict=is_strict)
        self._agreement.do(lambda: self._change(changes))
        if self._side is not None:
            self._side.heartbeat.note_read()

    def _settle(self, changes: Changes, *, is_strict: bool) -> Changes:
        """Return only what all ranks can use: if one of them cannot, none does."""
        if not changes.found:
            return changes
        if self._side is None:
            self._counters.bytes_fetched = self._parts.bytes_read
        failed = self._agreement.do(lambda: self._find_failed(changes))
        if is_strict:
            errors = [error for error in failed.values() if not isinstance(error, NotFiniteError)]
            self._agreement.meet(next(iter(errors), None))
        whole = [arrival for arrival in changes.arrivals if not arrival.is_part]
        refused = self._agree_on_refused([*whole, *changes.discoveries], failed)
        self._agreement.do(lambda: self._say_refused(refused))
        bad = {one.peer for one in refused}
        return replace(
            changes,
            quarantined=changes.quarantined | {one.peer for one in refused if one.is_nan},
            arrivals=tuple(arrival for arrival in changes.arrivals if arrival.manifest.peer not in bad),
        )

    def _find_failed(self, changes: Changes) -> dict[str, Exception]:
        """Return by peer what keeps this rank from using its new snapshot; make the teachers that lack."""
        failed = dict(changes.unread)
        for arrival in changes.arrivals:
            try:
                self._classroom.prepare(arrival)
            except SnapshotMismatchError as error:
                failed[arrival.manifest.peer] = error
        return failed

    def _agree_on_refused(
        self, found: Sequence[Arrival | Discovery], failed: Mapping[str, Exception]
    ) -> list["Refused"]:
        """Return what some rank cannot use, and what that rank says.

        Args:
            found: The snapshots, in the same order on every rank.
            failed: By peer, what keeps this rank from using it.
        """
        ranks = self._ranks
        # The worst that any rank has met, and which rank that was, in one number a snapshot.
        words = ranks.maximum(
            [_severity(failed.get(one.manifest.peer)) * ranks.size + ranks.rank for one in found]
        )
        refused = []
        for one, word in zip(found, words, strict=True):
            severity, rank = divmod(word, ranks.size)
            if severity:
                message = ranks.broadcast(str(failed.get(one.manifest.peer, "")).encode(), source=rank)
                refused.append(Refused(one, _KINDS[severity - 1], message.decode()))
        return refused

    def _say_refused(self, refused: Sequence["Refused"]) -> None:
        if self._side is not None:
            for one in refused:
                self._refuse(one)

    def _refuse(self, refused: "Refused") -> None:
        """Note that a new snapshot cannot be used; on rank 0."""
        if refused.is_nan:
            self._say_quarantined(refused.peer, refused.message)
            return
        message = (
            f"Nothing new was taken from peer {refused.peer!r} at step {self._classroom.step}: "
            f"{refused.message}"
        )
        if refused.kind is StoreError:
            self._notices.store_failed(("read", refused.peer), message)
        else:
            self._notices.say(("fetch", refused.peer), message)

    def _change(self, changes: Changes) -> None:
        classroom = self._classroom
        classroom.keep_only(changes.wanted)
        for arrival in changes.arrivals:
            classroom.take(arrival)
            self._note_taken(arrival)
        taken = {arrival.manifest.peer for arrival in changes.arrivals}
        classroom.quarantined = (classroom.quarantined - taken) | changes.quarantined

    def _note_taken(self, arrival: Arrival) -> None:
        manifest = arrival.manifest
        self._counters.fetched.append(manifest.peer)
        self._notices.has_passed(("fetch", manifest.peer))
        self._notices.store_works(("read", manifest.peer))
        own = {} if self._side is None else self._side.publisher.digests
        if own.get(manifest.step) == manifest.content_digest:
            self._notices.say(
                "identical",
                f"Peers {self._settings.peer!r} and {manifest.peer!r} have identical weights at step "
                f"{manifest.step}: while they have, the distillation loss is 0 and teaches nothing. "
                "Seed every peer differently, its initialisation and its order of data.",
            )

    def _quarantine_nan(self, was_nan: list[bool]) -> list[str]:
        """Stop listening to teachers whose predictions were of no use on any rank; return who is new."""
        names = zip(self._classroom.peers, was_nan, strict=True)
        new = [peer for peer, is_nan in names if is_nan and peer not in self._classroom.quarantined]
        self._classroom.quarantined |= set(new)
        if self._side is not None:
            for peer in new:
                self._say_useless(peer)
        return new

    def _say_useless(self, peer: str) -> None:
        count = self._classroom.other_classes.get(peer)
        if count is None:
            self._say_quarantined(peer, "its predictions are not finite numbers")
            return
        # Once for all: its next snapshot will be no other.
        self._notices.say(
            ("classes", peer),
            f"Peer {peer!r} is not learnt from since step {self._classroom.step}: it tells {count} classes "
            "apart, another number than this model. Let build return a model with this model's classes.",
        )

    def _say_quarantined(self, peer: str, reason: str) -> None:
        self._notices.say(
            ("quarantine", peer),
            f"Peer {peer!r} is not learnt from since step {self._classroom.step}: {reason}. "
            "It will be again once it publishes a better snapshot.",
        )

    def _count_published(self, published: Published) -> None:
        """Count a snapshot of which this rank has written something."""
        if published.bytes_written:
            self._counters.publishes += 1
            self._counters.bytes_published += published.bytes_written

    def _begin_to_beat(self, side: StoreSide, progress: Progress) -> None:
        """Let the heart beat from the first moment on: who waits long must not be taken for dead."""
        side.heartbeat.show(progress, {})
        side.heartbeat.beat()
        self._background.repeat("heartbeat", side.heartbeat.try_to_beat, HEARTBEAT_S)

    def _show(self, side: StoreSide, progress: Progress) -> None:
        """Keep for the next beat how far the student is, and how its teachers are."""
        classroom = self._classroom
        side.heartbeat.show(
            progress, classroom.orders, ages=classroom.ages, quarantined=classroom.quarantined
        )

    def _tend_heartbeat(self, side: StoreSide, progress: Progress) -> None:
        """Let the next beat tell how far the student is; raise if the name has been taken over."""
        self._show(side, progress)
        self._has_told_taken = side.heartbeat.is_superseded
        side.heartbeat.check_is_ours()
        for error in side.heartbeat.take_errors():
            if not isinstance(error, StoreError):
                raise error
            self._notices.store_failed("status", f"{error} Training goes on, and it is tried again.")

    def _begin_to_live(self, progress: Progress) -> None:
        """Let the heart beat, on rank 0."""
        side = self._side
        self._agreement.do(lambda: None if side is None else self._begin_to_beat(side, progress))

    def _is_known(self, fact: bool) -> bool:
        """Return on all ranks what rank 0 knows to be so; False on the others."""
        return bool(self._ranks.maximum([fact])[0])

    def _leave(self, side: StoreSide) -> None:
        """Say that this life has ended, when its begin has failed."""
        with suppress(StoreError):
            side.heartbeat.end("left")


def _severity(error: Exception | None) -> int:
    return next((index for index, kind in enumerate(_KINDS, start=1) if isinstance(error, kind)), 0)
