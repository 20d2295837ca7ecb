"""What a watcher remembers of a run: how things have gone since it came."""

from typing import Final, final

from codistill.exchange.checkpoint.lives import HEARTBEAT_S
from codistill.exchange.checkpoint.roster import Order
from codistill.snapshots.status import Status
from codistill.watch.observation import Observation, PeerObservation
from codistill.watch.pace import Pace
from codistill.watch.printable import printable
from codistill.watch.series import Series
from codistill.watch.view import PeerState, PeerView, View

SILENT_AFTER_S: Final = 3 * HEARTBEAT_S

_PATIENCE_S: Final = 10.0
_POINTS: Final = 60


@final
class History:
    """Puts looks at a store in a row, and says what they show together.

    A heartbeat that stands still for 15 s makes a peer silent. Time in which the store could not be read
    counts as one missed beat at most: the peers could not be heard.

    **Ranks**: none. One thread at a time.
    **Blocks**: no.
    **On failure**: a look that failed leaves all peers as they were.
    """

    def __init__(self, store: str, *, now_s: float) -> None:
        """Begin without having seen anything.

        Args:
            store: What to call the store.
            now_s: The time, in seconds, by a clock that never goes back; so in all methods.
        """
        self._store = printable(store)
        self._begin_s = now_s
        self._looked_s: float | None = None
        self._looking_s: float | None = None
        self._failure: str | None = None
        self._came_back = 0
        self._run_id: str | None = None
        self._run_problems: tuple[str, ...] = ()
        self._other_runs = 0
        self._peers: dict[str, _PeerHistory] = {}

    def begin_look(self, *, now_s: float) -> None:
        """Note that the store is asked; one that does not answer counts as away after 10 s."""
        self._looking_s = now_s

    def fail(self, error: Exception) -> None:
        """Note that the store could not be read.

        Args:
            error: Why.
        """
        self._looking_s = None
        self._failure = printable(str(error)) or type(error).__name__

    def take(self, observation: Observation, *, now_s: float) -> None:
        """Note what a look has found.

        Args:
            observation: What.
            now_s: The time.
        """
        unheard_s = 0.0
        if self._failure is not None or self._is_hanging(now_s):
            self._came_back += 1
            # One beat, so that peers in a store that is always this slow are found silent in the end.
            unheard_s = max(0.0, self._since_look_s(now_s) - HEARTBEAT_S)
        self._failure, self._looking_s, self._looked_s = None, None, now_s
        if self._run_id not in (None, observation.run_id):
            self._other_runs += 1
            self._peers.clear()
        self._run_id = observation.run_id
        self._run_problems = observation.problems
        for gone in self._peers.keys() - {seen.peer for seen in observation.peers}:
            del self._peers[gone]
        for seen in observation.peers:
            if seen.peer not in self._peers:
                self._peers[seen.peer] = _PeerHistory(seen.peer)
            self._peers[seen.peer].take(seen, now_s=now_s, unheard_s=unheard_s)

    def view(self, *, now_s: float) -> View:
        """Return all of it, as of now."""
        is_hanging = self._is_hanging(now_s)
        away_s, problems = None, list(self._run_problems)
        if self._failure is not None or is_hanging:
            away_s = self._since_look_s(now_s)
            reason = self._failure or "it does not answer."
            problems.insert(0, f"The store cannot be read: {reason}")
        if self._other_runs:
            problems.append("The store holds another run now than when the watch began.")
        return View(
            store=self._store,
            run_id=self._run_id,
            watched_s=now_s - self._begin_s,
            away_s=away_s,
            came_back=self._came_back,
            problems=tuple(problems),
            peers=tuple(self._peers[peer].view(now_s=now_s) for peer in sorted(self._peers)),
        )

    def _since_look_s(self, now_s: float) -> float:
        return now_s - (self._begin_s if self._looked_s is None else self._looked_s)

    def _is_hanging(self, now_s: float) -> bool:
        return self._looking_s is not None and now_s - self._looking_s > _PATIENCE_S


@final
class _PeerHistory:
    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._status: Status | None = None
        self._newest: Order | None = None
        self._problems: tuple[str, ...] = ()
        self._is_readable = False
        self._is_confirmed = False
        self._moved_s = 0.0
        self._looked_s = 0.0
        self._pace = Pace()
        self._task_losses = Series()
        self._distillation_losses = Series()

    def take(self, seen: PeerObservation, *, now_s: float, unheard_s: float) -> None:
        self._moved_s += unheard_s
        self._looked_s = now_s
        self._problems = seen.problems
        if seen.newest is not None:
            self._newest = seen.newest
        self._is_readable = seen.status is not None
        if seen.status is not None:
            self._hear(seen.status, now_s)
        elif self._status is not None and not seen.problems:
            self._problems = ("Its status was there, and is gone.",)

    def _hear(self, status: Status, now_s: float) -> None:
        before, self._status = self._status, status
        if before is None or before.incarnation != status.incarnation:
            self._moved_s, self._is_confirmed, self._pace = now_s, False, Pace()
        elif before.heartbeat != status.heartbeat:
            self._moved_s, self._is_confirmed = now_s, True
        self._pace.see(status.step, now_s=now_s)
        if before is None or _losses(before) != _losses(status):
            for series, loss in (
                (self._task_losses, status.task_loss),
                (self._distillation_losses, status.distillation_loss),
            ):
                if loss is not None:
                    series.append(loss)

    def view(self, *, now_s: float) -> PeerView:
        status, state = self._status, self._state()
        newest = (None, None) if self._newest is None else self._newest
        if status is None:
            return PeerView(
                peer=self._peer,
                state=state,
                is_confirmed=False,
                silent_s=None,
                waits_for=None,
                incarnation=newest[0],
                sequence=newest[1],
                step=None,
                steps_per_s=None,
                samples=None,
                task_loss=None,
                task_losses=(),
                distillation_loss=None,
                distillation_losses=(),
                agreement={},
                weight=None,
                teachers={},
                stall_share=None,
                quarantined=(),
                advice=(),
                problems=self._problems,
            )
        return PeerView(
            peer=self._peer,
            state=state,
            is_confirmed=self._is_confirmed,
            silent_s=self._looked_s - self._moved_s if state == "silent" else None,
            waits_for=printable(status.waits_for or "") if state == "waiting" else None,
            incarnation=status.incarnation,
            # The newest snapshot may be of an earlier life still.
            sequence=newest[1] if newest[0] == status.incarnation else None,
            step=status.step,
            steps_per_s=self._pace.steps_per_s(now_s=now_s) if state == "running" else None,
            samples=status.samples,
            task_loss=status.task_loss,
            task_losses=self._task_losses.means(_POINTS),
            distillation_loss=status.distillation_loss,
            distillation_losses=self._distillation_losses.means(_POINTS),
            agreement=dict(status.agreement),
            weight=status.weight,
            teachers={teacher: status.ages.get(teacher) for teacher in {**status.reading, **status.ages}},
            stall_share=_share(status.stall_s, status.running_s),
            quarantined=status.quarantined,
            advice=tuple(printable(sentence) for sentence in status.advice),
            problems=self._problems,
        )

    def _state(self) -> PeerState:
        if not self._is_readable:
            return "unreadable" if self._problems else "unknown"
        assert self._status is not None
        if self._status.state != "running":
            return self._status.state
        if self._looked_s - self._moved_s >= SILENT_AFTER_S:
            return "silent"
        return "running" if self._status.waits_for is None else "waiting"


def _losses(status: Status) -> tuple[int, float | None, float | None]:
    # Not by step: peers tell of steps more often than of new losses.
    return status.incarnation, status.task_loss, status.distillation_loss


def _share(part_s: float | None, whole_s: float | None) -> float | None:
    if part_s is None or whole_s is None or whole_s <= 0.0:
        return None
    return min(1.0, max(0.0, part_s / whole_s))
