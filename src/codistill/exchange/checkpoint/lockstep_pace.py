"""Lockstep: the student waits for every other peer at every interval."""

from collections.abc import Mapping
from dataclasses import replace
from typing import final

from typing_extensions import override

from codistill.errors import StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.changes import Changes
from codistill.exchange.checkpoint.pace import Pace
from codistill.exchange.checkpoint.roster import Order
from codistill.exchange.checkpoint.sighting import Arrival, Discovery
from codistill.exchange.checkpoint.store_side import StoreSide


@final
class LockstepPace(Pace):
    """Publishes, waits for all others, and changes the teachers, before the next step begins.

    **Blocks**: at the start and at every interval, until all are there.
    **On failure**: raises on all ranks, at the same step.
    """

    @override
    def begin(self, progress: Progress) -> None:
        self._classroom.step = progress.step
        try:
            self._begin_to_live(progress)
            if not self._is_known(self._side is not None and self._side.saved is not None):
                self._agreement.do(lambda: self._publish(progress, finished=False))
            self._bring(self._agreement.do(lambda: self._find_teachers(progress)), is_strict=True)
        except BaseException:
            if self._side is not None:
                self._leave(self._side)
            raise

    @override
    def step(self, progress: Progress) -> None:
        self._classroom.step = progress.step
        if progress.step % self._settings.interval_steps != 0:
            return
        was_nan = self._agreement.meet(None, self._classroom.who_was_nan())
        self._agreement.do(lambda: self._quarantine_nan(list(map(bool, was_nan))))
        self._agreement.do(lambda: self._tend(progress))
        self._agreement.do(lambda: self._publish(progress, finished=False))
        self._bring(self._agreement.do(lambda: self._look_for_all(progress)), is_strict=True)
        if self._side is not None:
            self._show(self._side, progress)
            self._side.heartbeat.try_to_beat()

    @override
    def close(self, progress: Progress, *, publish: bool, timeout_s: float) -> None:
        self._classroom.step = progress.step
        side = self._side
        try:
            if side is not None:
                self._show(side, progress)
            if publish:
                # The others wait for it: they must not be left without a word.
                self._publish(progress, finished=True)
            if side is not None:
                try:
                    side.heartbeat.end("finished" if publish else "left")
                except StoreError as error:
                    self._notices.store_failed("close", f"{error} The last snapshot goes on serving.")
                self._counters.bytes_fetched = side.fetcher.bytes_read
        finally:
            self._background.stop(timeout_s)
            self._ranks.close()

    def _find_teachers(self, progress: Progress) -> Changes | None:
        side = self._side
        if side is None:
            return None
        changes = self._read(progress) if side.saved is None else self._read_saved(side, progress)
        self._counters.bytes_fetched = side.fetcher.bytes_read
        return changes

    def _read_saved(self, side: StoreSide, progress: Progress) -> Changes:
        assert side.saved is not None
        peers, quarantined = tuple(side.saved.teachers), frozenset[str]()
        found = {peer: self._saved_arrival(side, peer) for peer in peers}
        if progress.step % self._settings.interval_steps == 0:
            # State that was saved while a peer was missing lacks the snapshots of its own step.
            held = {peer: one.reference.order for peer, one in found.items()}
            newer = self._read(progress, held)
            peers, quarantined = newer.wanted, newer.quarantined
            found |= {one.manifest.peer: one for one in newer.found}
        return Changes(
            wanted=peers,
            quarantined=quarantined,
            arrivals=tuple(one for peer in peers if isinstance(one := found[peer], Arrival)),
            discoveries=tuple(one for peer in peers if isinstance(one := found[peer], Discovery)),
        )

    def _tend(self, progress: Progress) -> None:
        if self._side is not None:
            self._tend_heartbeat(self._side, progress)

    def _look_for_all(self, progress: Progress) -> Changes | None:
        side = self._side
        if side is None:
            return None
        changes = self._read(progress)
        self._counters.bytes_fetched = side.fetcher.bytes_read
        return changes

    def _read(self, progress: Progress, held: Mapping[str, Order] | None = None) -> Changes:
        assert self._reader is not None
        look = self._look(progress)
        sighting = self._reader.look(look if held is None else replace(look, held=held))
        self._roster = sighting.roster
        assert sighting.wanted is not None
        for peer, where in sighting.not_finite.items():
            self._say_quarantined(peer, where)
        return Changes(
            wanted=sighting.wanted,
            quarantined=frozenset(sighting.not_finite),
            arrivals=sighting.arrivals,
            discoveries=sighting.discoveries,
        )

    def _publish(self, progress: Progress, *, finished: bool) -> None:
        self._count_published(self._publishing.publish_now(progress, finished=finished))
        if self._side is not None:
            self._side.heartbeat.check_is_ours()
