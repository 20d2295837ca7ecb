"""Running free: the student never waits for a store."""

import time
from collections.abc import Callable
from typing import Any, Final, final

from typing_extensions import override

from codistill.errors import KeyMissingError, SnapshotError, StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.agreement import EVERY_STEPS
from codistill.exchange.checkpoint.background import Outcome
from codistill.exchange.checkpoint.backoff import Backoff
from codistill.exchange.checkpoint.changes import Changes
from codistill.exchange.checkpoint.commentary import Commentary
from codistill.exchange.checkpoint.newest import NewestReader
from codistill.exchange.checkpoint.pace import Pace, Parts, Refused
from codistill.exchange.checkpoint.publishing import Published
from codistill.exchange.checkpoint.quarantine import Quarantine
from codistill.exchange.checkpoint.sighting import Arrival, Discovery, Sighting
from codistill.exchange.checkpoint.store_side import StoreSide
from codistill.exchange.checkpoint.waiting import Clock

_SETTLE_S: Final = 5.0
_LAST_WORD_S: Final = 1.0


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
        self._looking = parts.background.worker("fetch")
        self._publish_backoff = Backoff()
        self._look_backoff = Backoff()
        self._quarantine = Quarantine()
        self._pending: Changes | None = None
        self._error: Exception | None = None
        self._commentary = Commentary(parts.notices)

    @override
    def begin(self, progress: Progress) -> None:
        self._classroom.step = progress.step
        is_strict = self._settings.membership.start_with_peers > 0
        try:
            self._begin_to_live(progress)
            saved = None if self._side is None else self._side.saved
            if is_strict and not self._is_known(saved is not None and bool(saved.teachers)):
                self._agreement.do(lambda: None if self._newest is None else self._newest.note_who_is_there())
                self._count_published(self._agreement.do(lambda: self._publishing.publish_now(progress)))
            self._apply(self._bring_teachers(progress, is_strict=is_strict), is_strict=is_strict)
        except BaseException:
            if self._side is not None:
                self._leave(self._side)
            raise

    @override
    def step(self, progress: Progress) -> None:
        self._classroom.step = progress.step
        for tend in (self._tend, self._tend_publishing, self._tend_looking):
            # Each: ranks of which one had not begun to publish would wait for it when they close.
            try:
                tend(progress)
            except Exception as error:  # noqa: BLE001 - raised below, on all ranks at once
                self._error = self._error or error
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
            if side is not None:
                self._show(side, progress)
            is_done = self._finish(progress, publish=publish, remaining_s=remaining_s)
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

    def _finish(self, progress: Progress, *, publish: bool, remaining_s: Callable[[], float]) -> bool:
        """Leave a last snapshot and a last word; return whether the store has taken them in time."""
        publish = publish and self._have_all_come(remaining_s())
        is_done = (
            self._leave_snapshot(progress, remaining_s) if publish else self._publishing.wait(remaining_s())
        )
        side = self._side
        if side is None:
            # A store that hangs here is seen by its thread.
            return True
        if is_done and not side.heartbeat.is_superseded:
            self._publish_worker.take()
            self._publish_worker.offer(lambda: side.heartbeat.end("finished" if publish else "left"))
            # Also if the other ranks have taken all the time.
            is_done = self._publish_worker.wait(max(remaining_s(), _LAST_WORD_S))
            outcome = self._publish_worker.take()
            if outcome is not None and outcome.error is not None:
                if not isinstance(outcome.error, StoreError):
                    raise outcome.error
                self._say_publish_failed(outcome.error, is_closing=True)
        self._counters.bytes_fetched = side.fetcher.bytes_read
        return is_done

    def _have_all_come(self, timeout_s: float) -> bool:
        """Return whether a last snapshot can be written, which may take all ranks."""
        if not self._publishing.is_collective or self._ranks.have_all_come(timeout_s):
            return True
        self._notices.say(
            "ranks missing",
            f"Not all ranks of peer {self._settings.peer!r} were closed in time, so that it leaves no "
            "last snapshot. Close the Codistiller on every rank.",
        )
        return False

    def _leave_snapshot(self, progress: Progress, remaining_s: Callable[[], float]) -> bool:
        is_collective = self._publishing.is_collective
        for is_last in (False, True):
            if is_last:
                # A rank's thread may still be writing what was not taken in time.
                if is_collective and self._is_known(remaining_s() == 0.0):
                    return False
                self._publishing.begin(progress, finished=True)
            published = self._publishing.finish(timeout_s=remaining_s())
            if published is not None:
                self._note_published(published, is_closing=True)
                # Who writes alone knows why it failed, unless that was the time.
                if published.has_failed and published.error is None and not is_collective:
                    return False
        return True

    def _bring_teachers(self, progress: Progress, *, is_strict: bool) -> Changes:
        """Return the first teachers, on all ranks; look again where a peer has replaced what was found."""
        gone = None
        while True:
            found = self._agreement.do(lambda: self._find_teachers(progress, is_strict=is_strict))
            changes = self._bring_found(found)
            is_gone = any(isinstance(error, KeyMissingError) for error in changes.unread.values())
            (is_gone_anywhere,) = self._ranks.maximum([is_gone])
            orders = {one.manifest.peer: one.manifest.order for one in changes.discoveries}
            # What is still pointed to though it is gone will not come back.
            if not is_gone_anywhere or orders == gone:
                return changes
            gone = orders

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

    def _tend(self, progress: Progress) -> None:
        """Take what the background has done."""
        side = self._side
        if side is not None:
            self._tend_heartbeat(side, progress)
            self._collect(side)
            if self._is_interval_over(progress):
                self._judge(progress)

    def _tend_publishing(self, progress: Progress) -> None:
        if self._is_interval_over(progress):
            self._offer_publish(progress)

    def _tend_looking(self, progress: Progress) -> None:
        side = self._side
        if side is not None and self._is_interval_over(progress):
            self._offer_look(progress)
            self._collect(side)
            self._commentary.on_stale(self._classroom, self._pending)
            self._commentary.on_being_alone(side, self._classroom, progress.step)

    def _is_interval_over(self, progress: Progress) -> bool:
        return progress.step % self._settings.interval_steps == 0

    def _offer_publish(self, progress: Progress) -> None:
        # Where all ranks write, they have met the same failures, so that all are due or none.
        if self._publish_backoff.is_due() and not self._publishing.is_under_way:
            self._publishing.begin(progress)
        else:
            self._counters.publishes_skipped += 1

    def _note_published(self, published: Published, *, is_closing: bool = False) -> None:
        if not published.has_failed:
            self._publish_backoff.note_success()
            self._notices.store_works("publish")
            self._notices.store_works("status")
            self._count_published(published)
            return
        self._publish_backoff.note_failure()
        if published.error is not None:
            self._say_publish_failed(published.error, is_closing=is_closing)

    def _say_publish_failed(self, error: StoreError, *, is_closing: bool) -> None:
        goes_on = (
            "The last snapshot that is complete goes on serving."
            if is_closing
            else "Training goes on, and it is tried again at a later interval."
        )
        self._notices.store_failed("publish", f"{error} {goes_on}")

    def _offer_look(self, progress: Progress) -> None:
        reader = self._newest
        assert reader is not None
        # What is on its way to the teachers would be read again.
        is_awaited = self._pending is not None or self._delivery.is_under_way
        if not is_awaited and self._look_backoff.is_due() and self._looking.is_idle:
            look = self._look(progress)
            self._looking.offer(lambda: reader.look(look))

    def _collect(self, side: StoreSide) -> None:
        published = self._publishing.poll()
        if published is not None:
            self._note_published(published)
        # One at a time: changes that the ranks have not made yet come first.
        if self._pending is None and not self._delivery.is_under_way:
            outcome = self._looking.take()
            if outcome is not None:
                self._pending = self._decide(_result(outcome))
        self._counters.bytes_fetched = side.fetcher.bytes_read

    def _decide(self, sighting: Sighting) -> Changes | None:
        """Say what was found, and return what is to become of the teachers; None for nothing new."""
        self._roster = sighting.roster
        has_failed = self._commentary.on_sighting(sighting)
        (self._look_backoff.note_failure if has_failed else self._look_backoff.note_success)()
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
        numbers = [is_waiting, self._pending is not None, self._publishing.is_waiting, *was_nan]
        is_waiting, has_pending, is_writing, *was_nan = map(bool, self._agreement.meet(error, numbers))
        published = None if is_writing else self._publishing.advance()
        if published is not None:
            self._agreement.do(lambda: self._note_published(published))
        if any(was_nan):
            for peer in self._agreement.do(lambda: self._quarantine_nan(was_nan)):
                self._quarantine.put(peer, "not finite")
        if self._delivery.is_under_way:
            if not is_waiting:
                self._apply(self._delivery.take(), is_strict=False)
        elif has_pending:
            changes, self._pending = self._pending, None
            if self._ranks.size == 1 and changes is not None and not changes.discoveries:
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
    def _refuse(self, refused: Refused) -> None:
        super()._refuse(refused)
        if refused.is_nan:
            self._quarantine.put(refused.peer, refused.message)
        # A store that is away is asked again; what is damaged stays so.
        if self._newest is not None and refused.kind is not StoreError:
            self._newest.pass_over(refused.peer, refused.found.manifest.order)


def _result(outcome: Outcome) -> Any:
    if outcome.error is not None:
        raise outcome.error
    return outcome.result


def _raise_first_error(sighting: Sighting) -> None:
    if sighting.store_error is not None:
        raise sighting.store_error
    for peer in sorted(sighting.errors):
        raise sighting.errors[peer]
