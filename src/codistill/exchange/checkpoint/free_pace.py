"""Running free: the student never waits for a store."""

import time
from collections.abc import Callable
from typing import Any, Final, final

from typing_extensions import override

from codistill.errors import KeyMissingError, SnapshotError, SnapshotMismatchError, StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.agreement import EVERY_STEPS
from codistill.exchange.checkpoint.background import Outcome
from codistill.exchange.checkpoint.backoff import Backoff
from codistill.exchange.checkpoint.changes import Changes
from codistill.exchange.checkpoint.newest import NewestReader
from codistill.exchange.checkpoint.pace import Pace, Parts, RefusedPart
from codistill.exchange.checkpoint.quarantine import Quarantine
from codistill.exchange.checkpoint.sharded_publishing import Published, ShardedPublishing
from codistill.exchange.checkpoint.sighting import Arrival, Discovery, Sighting
from codistill.exchange.checkpoint.store_side import StoreSide
from codistill.exchange.checkpoint.waiting import Clock

_LONG_INTERVALS: Final = 10
_SETTLE_S: Final = 5.0


@final
class FreePace(Pace):
    """Publishes and looks in the background, and changes teachers at a step boundary when all is there.

    At an interval the weights are copied aside; a thread encodes and writes them. Another looks for the
    teachers' newest snapshots and reads them whole. The ranks of a peer meet every ten steps, to change
    their teachers, and to raise, all at the same step; a single rank may at any.

    **Blocks**: ``begin`` while the store is read, ``close`` up to its timeout; ``step`` does not wait for
    the store.
    **On failure**: what cannot be read or written is said once, and tried again at later intervals.
    """

    def __init__(self, parts: Parts, reader: NewestReader | None, *, clock: Clock) -> None:
        """Take over the parts of a peer.

        Args:
            parts: The parts.
            reader: Finds snapshots; on rank 0.
            clock: To wait by at the start.
        """
        super().__init__(parts, reader)
        self._newest = reader
        self._clock = clock
        self._publishing = parts.background.worker("publish")
        self._looking = parts.background.worker("fetch")
        self._publish_backoff = Backoff()
        self._look_backoff = Backoff()
        self._quarantine = Quarantine()
        self._pending: Changes | None = None
        self._error: Exception | None = None
        self._intervals_alone = 0
        self._unread: set[str] = set()

    @override
    def begin(self, progress: Progress) -> None:
        self._classroom.step = progress.step
        is_strict = self._settings.membership.start_with_peers > 0
        try:
            self._begin_to_live(progress)
            saved = None if self._side is None else self._side.saved
            if is_strict and not self._is_known(saved is not None and bool(saved.teachers)):
                self._publish_first(progress)
            changes = self._agreement.do(lambda: self._find_teachers(progress, is_strict=is_strict))
        except BaseException:
            if self._side is not None:
                self._leave(self._side)
            raise
        self._bring(changes, is_strict=is_strict)

    @override
    def step(self, progress: Progress) -> None:
        self._classroom.step = progress.step
        if self._side is not None:
            try:
                self._tend(self._side, progress)
            except Exception as error:  # noqa: BLE001 - raised below, on all ranks at once
                self._error = self._error or error
        if self._sharded is not None and progress.step % self._settings.interval_steps == 0:
            self._offer_shards(self._sharded, progress)
        if self._agreement.is_due(progress.step):
            self._agree(progress.step)
        else:
            self._go_on_with_delivery()

    @override
    def close(self, progress: Progress, *, publish: bool, timeout_s: float) -> None:
        self._classroom.step = progress.step
        side = self._side
        deadline_s = time.monotonic() + timeout_s

        def remaining_s() -> float:
            return max(0.0, deadline_s - time.monotonic())

        is_done, stuck = True, []
        try:
            if self._sharded is not None and publish:
                is_done = self._finish_shards(self._sharded, progress, remaining_s)
            if side is not None:
                side.heartbeat.show(progress, self._classroom.orders)
                is_done &= self._publishing.wait(remaining_s()) and self._finish(
                    side, progress, publish=publish, timeout_s=remaining_s()
                )
        finally:
            self._parts.give_up()
            self._delivery.settle(min(remaining_s(), _SETTLE_S))
            # Also if the time is over: a thread that is only waiting ends at once.
            stuck = self._background.stop(max(remaining_s(), 1.0))
            self._ranks.close()
        if not is_done or stuck:
            self._notices.say(
                "stuck",
                f"The store has not answered within {timeout_s:g} s; what peer {self._settings.peer!r} was "
                f"doing there has been given up ({', '.join(stuck) or 'publish'}). Its last snapshot that is "
                "complete goes on serving.",
            )
        self._raise_what_is_left()

    def _raise_what_is_left(self) -> None:
        """Raise what went wrong since the ranks met last, but for a store that failed at the end."""
        outcome = self._looking.take()
        errors = [self._error, None if outcome is None else outcome.error]
        if self._side is not None:
            errors += self._side.heartbeat.take_errors()
            if self._side.heartbeat.is_superseded and not self._has_told_taken:
                self._notices.say("superseded", self._side.heartbeat.superseded_message())
        for error in errors:
            if error is not None and not isinstance(error, StoreError):
                raise error

    def _finish(self, side: StoreSide, progress: Progress, *, publish: bool, timeout_s: float) -> bool:
        """Leave a last snapshot and a last word; return whether the store has taken them in time."""
        self._collect_publish(is_closing=True)
        if publish and self._sharded is None:
            side.stage()
        is_whole = self._sharded is None
        self._publishing.offer(lambda: _finish(side, progress, publish=publish, is_whole=is_whole))
        is_done = self._publishing.wait(timeout_s)
        self._collect_publish(is_closing=True)
        self._counters.bytes_fetched = side.fetcher.bytes_read
        return is_done

    def _find_teachers(self, progress: Progress, *, is_strict: bool) -> Changes | None:
        side, reader = self._side, self._newest
        if side is None or reader is None:
            return None
        if side.saved is not None and side.saved.teachers:
            return self._take_saved(side, reader, progress)
        if is_strict:
            self._wait_for_others(reader, progress)
        sighting = reader.look(self._look(progress))
        side.heartbeat.check_is_ours()
        self._counters.bytes_fetched = side.fetcher.bytes_read
        if is_strict:
            _raise_first_error(sighting)
        elif sighting.store_error is not None:
            raise sighting.store_error
        return self._decide(sighting) or Changes(wanted=())

    def _publish_first(self, progress: Progress) -> None:
        side = self._side
        if self._sharded is not None:
            self._publish_sharded(self._sharded, progress, finished=False)
        else:
            self._agreement.do(lambda: None if side is None else self._publish_whole(side, progress))

    def _publish_whole(self, side: StoreSide, progress: Progress) -> None:
        side.stage()
        self._count_publish(side.publish(progress, finished=False))

    def _wait_for_others(self, reader: NewestReader, progress: Progress) -> None:
        membership = self._settings.membership
        reader.wait_for(
            membership.start_with_peers,
            timeout_s=membership.start_timeout_s,
            clock=self._clock,
            step=progress.step,
        )

    def _take_saved(self, side: StoreSide, reader: NewestReader, progress: Progress) -> Changes:
        """Return the snapshots that the teachers held when the state was saved, or else the newest."""
        assert side.saved is not None
        found, missing = [], []
        for peer in side.saved.teachers:
            try:
                found.append(self._saved_arrival(side, peer))
            except (SnapshotError, StoreError) as error:
                missing.append(peer)
                self._notices.say(
                    "saved teachers",
                    f"The snapshot of peer {peer!r} that this run had when it was saved cannot be read "
                    f"any more ({error}). Its newest one is taken instead.",
                )
        wanted = tuple(side.saved.teachers)
        if missing:
            sighting = reader.look(self._look(progress))
            newest = self._decide(sighting)
            if newest is not None:
                found += [one for one in newest.found if one.manifest.peer in missing]
        return Changes(
            wanted=wanted,
            arrivals=tuple(one for one in found if isinstance(one, Arrival)),
            discoveries=tuple(one for one in found if isinstance(one, Discovery)),
        )

    def _tend(self, side: StoreSide, progress: Progress) -> None:
        """Take what the background has done, and give it more to do."""
        self._tend_heartbeat(side, progress)
        self._collect(side)
        if progress.step % self._settings.interval_steps == 0:
            self._judge(progress)
            if self._sharded is None:
                self._offer_publish(side, progress)
            self._offer_look(progress)
            self._collect(side)
            self._notice_stale()
            self._notice_being_alone(side, progress.step)

    def _offer_publish(self, side: StoreSide, progress: Progress) -> None:
        if not (self._publish_backoff.is_due() and self._publishing.is_idle):
            self._counters.publishes_skipped += 1
            return
        side.stage()
        self._publishing.offer(lambda: _publish(side, progress))

    def _offer_shards(self, sharded: ShardedPublishing, progress: Progress) -> None:
        """Begin to publish on all ranks; they have met the same failures, so that all are due or none."""
        if self._publish_backoff.is_due() and not sharded.is_under_way:
            sharded.begin(progress)
        else:
            self._counters.publishes_skipped += 1

    def _note_published(self, published: Published, *, is_closing: bool = False) -> None:
        if not published.has_failed:
            self._publish_backoff.note_success()
            self._notices.store_works("publish")
            self._count_published(published)
            return
        self._publish_backoff.note_failure()
        if published.error is not None:
            self._say_publish_failed(published.error, is_closing=is_closing)

    def _finish_shards(
        self, sharded: ShardedPublishing, progress: Progress, remaining_s: Callable[[], float]
    ) -> bool:
        """Leave a last snapshot, if all ranks have come to their end; return whether they have."""
        if not self._ranks.have_all_come(remaining_s()):
            return False
        under_way = sharded.finish(timeout_s=remaining_s())
        if under_way is not None:
            self._note_published(under_way, is_closing=True)
        published = sharded.publish_now(progress, finished=True, timeout_s=remaining_s())
        self._note_published(published, is_closing=True)
        return not published.has_failed

    def _offer_look(self, progress: Progress) -> None:
        reader = self._newest
        assert reader is not None
        # What is on its way to the teachers would be read again.
        is_awaited = self._pending is not None or self._delivery.is_under_way
        if not is_awaited and self._look_backoff.is_due() and self._looking.is_idle:
            look = self._look(progress)
            self._looking.offer(lambda: reader.look(look))

    def _collect(self, side: StoreSide) -> None:
        self._collect_publish()
        # One at a time: changes that the ranks have not made yet come first.
        if self._pending is None and not self._delivery.is_under_way:
            outcome = self._looking.take()
            if outcome is not None:
                self._pending = self._decide(_result(outcome))
        self._counters.bytes_fetched = side.fetcher.bytes_read

    def _collect_publish(self, *, is_closing: bool = False) -> None:
        outcome = self._publishing.take()
        if outcome is None:
            return
        if isinstance(outcome.error, StoreError):
            self._publish_backoff.note_failure()
            self._say_publish_failed(outcome.error, is_closing=is_closing)
            return
        written = _result(outcome)
        self._publish_backoff.note_success()
        self._notices.store_works("publish")
        self._notices.store_works("status")
        if written:
            self._count_publish(written)

    def _say_publish_failed(self, error: StoreError, *, is_closing: bool) -> None:
        goes_on = (
            "The last snapshot that is complete goes on serving."
            if is_closing
            else "Training goes on, and it is tried again at a later interval."
        )
        self._notices.store_failed("publish", f"{error} {goes_on}")

    def _count_publish(self, written: int) -> None:
        self._counters.bytes_published += written
        self._counters.publishes += 1

    def _decide(self, sighting: Sighting) -> Changes | None:
        """Say what was found, and return what is to become of the teachers; None for nothing new."""
        self._roster = sighting.roster
        self._report(sighting)
        if sighting.wanted is None:
            return None
        for peer, where in sighting.not_finite.items():
            if self._quarantine.put(peer, where):
                self._say_quarantined(peer, where)
        held = set(self._classroom.peers)
        # Whose snapshot is a better one is let out when its teacher has taken it.
        quarantined = self._quarantine.peers - sighting.coming
        is_new = not held <= set(sighting.wanted) or not quarantined <= self._classroom.quarantined
        if not sighting.coming and not is_new:
            return None
        return Changes(
            wanted=sighting.wanted,
            quarantined=quarantined,
            arrivals=sighting.arrivals,
            discoveries=sighting.discoveries,
        )

    def _agree(self, step: int) -> None:
        is_waiting = not self._go_on_with_delivery()
        error, self._error = self._error, None
        was_nan = self._classroom.who_was_nan() if step % EVERY_STEPS == 0 else []
        is_writing = self._sharded is not None and self._sharded.is_waiting
        numbers = [is_waiting, self._pending is not None, is_writing, *was_nan]
        is_waiting, has_pending, is_writing, *was_nan = map(bool, self._agreement.meet(error, numbers))
        if self._sharded is not None and self._sharded.is_under_way and not is_writing:
            published = self._sharded.advance()
            if published is not None:
                self._note_published(published)
        if was_nan:
            for peer in self._quarantine_nan(was_nan):
                self._quarantine.put(peer, "not finite")
        if self._delivery.is_under_way:
            if not is_waiting:
                self._apply(self._delivery.take(), is_strict=False)
        elif has_pending:
            changes, self._pending = self._pending, None
            if self._ranks.size == 1:
                self._bring(changes, is_strict=False)
            else:
                self._agreement.do(lambda: self._delivery.announce(changes))
                self._delivery.start()

    def _go_on_with_delivery(self) -> bool:
        """Let what has arrived on this rank be decoded; return whether nothing is left to wait for."""
        try:
            return not self._delivery.is_under_way or self._delivery.is_done()
        except Exception as error:  # noqa: BLE001 - raised at the next meeting, on all ranks
            self._error = self._error or error
            return True

    def _judge(self, progress: Progress) -> None:
        """Put teachers apart whose task loss has been too high for too long."""
        new = self._quarantine.judge(self._classroom.describe(), progress.task_loss)
        for peer, reason in new.items():
            self._say_quarantined(peer, reason)
        if new and self._pending is None and not self._delivery.is_under_way:
            self._pending = Changes(wanted=tuple(self._classroom.peers), quarantined=self._quarantine.peers)

    @override
    def _note_taken(self, arrival: Arrival) -> None:
        super()._note_taken(arrival)
        if self._quarantine.let_out(arrival.manifest.peer):
            self._notices.has_passed(("quarantine", arrival.manifest.peer))

    @override
    def _refuse(self, arrival: Arrival, error: SnapshotMismatchError) -> None:
        super()._refuse(arrival, error)
        if self._newest is not None:
            self._newest.pass_over(arrival.manifest.peer, arrival.manifest.order)

    @override
    def _refuse_part(self, part: RefusedPart) -> None:
        super()._refuse_part(part)
        if part.is_nan:
            self._quarantine.put(part.peer, part.message)
        # A store that is away is asked again; what is damaged stays so.
        if self._newest is not None and part.kind is not StoreError:
            self._newest.pass_over(part.peer, part.discovery.manifest.order)

    def _report(self, sighting: Sighting) -> None:
        notices, step = self._notices, sighting.look.progress.step
        if sighting.store_error is not None:
            self._look_backoff.note_failure()
            notices.store_failed(
                "find peers",
                f"{sighting.store_error} Training goes on, and it is tried again at a later interval.",
            )
            return
        notices.store_works("find peers")
        is_away = {peer for peer, error in sighting.errors.items() if is_outage(error)}
        # One peer whose snapshot cannot be read must not make all others rarer.
        has_failed = bool(sighting.wanted) and is_away.issuperset(sighting.wanted or ())
        (self._look_backoff.note_failure if has_failed else self._look_backoff.note_success)()
        for peer in self._unread - sighting.errors.keys():
            notices.store_works(("fetch", peer))
        self._unread = {peer for peer, error in sighting.errors.items() if isinstance(error, StoreError)}
        for peer, error in sorted(sighting.errors.items()):
            message = f"Nothing new was taken from peer {peer!r} at step {step}: {error}"
            if isinstance(error, StoreError):
                notices.store_failed(("fetch", peer), message)
            else:
                notices.say(("fetch", peer), message)
        for peer in sighting.coming:
            for subject in ("fetch", "young", "stale"):
                notices.has_passed((subject, peer))
        for peer in sighting.too_young:
            notices.say(
                ("young", peer),
                f"Peer {peer!r} is not learnt from yet: it has been trained on less than half of this peer's "
                f"{sighting.look.progress.samples} samples.",
            )
        if sighting.left_out:
            notices.say(
                "crowded",
                f"There are more teachers than max_teachers: {', '.join(sighting.left_out)} will not be "
                "learnt from. Pass TeacherOptions(max_teachers=...) for more of them, or topology='ring' for "
                "one.",
            )

    def _notice_stale(self) -> None:
        # Those that have arrived are taken when the ranks meet next.
        arriving = frozenset[str]() if self._pending is None else self._pending.coming
        for peer, info in self._classroom.describe().items():
            if info.share < 1.0 and not info.is_quarantined and peer not in arriving:
                self._notices.say(
                    ("stale", peer),
                    f"Peer {peer!r} has published nothing new for {info.age_steps} steps: its teacher counts "
                    f"less and less (now {info.share:.2f}), until there is a new snapshot.",
                )

    def _notice_being_alone(self, side: StoreSide, step: int) -> None:
        is_alone = side.finder.expects_teachers and not self._classroom.peers
        self._intervals_alone = self._intervals_alone + 1 if is_alone else 0
        if self._intervals_alone == _LONG_INTERVALS:
            self._notices.say(
                "alone",
                f"There has been no teacher for {_LONG_INTERVALS} intervals, up to step {step}: this is not "
                "codistillation yet. Start the other peers with the same store, which they must all see.",
            )


def is_outage(error: BaseException) -> bool:
    """Return whether it is the store that fails, rather than one snapshot that is not there."""
    return isinstance(error, StoreError) and not isinstance(error, KeyMissingError)


def _publish(side: StoreSide, progress: Progress) -> int:
    # A name that has been taken over is not ours to write under.
    if side.heartbeat.is_superseded:
        return 0
    written = side.publish(progress, finished=False)
    side.heartbeat.try_to_beat()
    return written


def _finish(side: StoreSide, progress: Progress, *, publish: bool, is_whole: bool) -> int:
    if side.heartbeat.is_superseded:
        return 0
    written = side.publish(progress, finished=True) if publish and is_whole else 0
    side.heartbeat.end("finished" if publish else "left")
    return written


def _result(outcome: Outcome) -> Any:
    if outcome.error is not None:
        raise outcome.error
    return outcome.result


def _raise_first_error(sighting: Sighting) -> None:
    if sighting.store_error is not None:
        raise sighting.store_error
    for peer in sorted(sighting.errors):
        raise sighting.errors[peer]
