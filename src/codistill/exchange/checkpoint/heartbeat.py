"""How the others know that a peer lives."""

import threading
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import final

from codistill.errors import PeerTakenError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.lives import has_been_followed
from codistill.exchange.checkpoint.roster import Order
from codistill.exchange.checkpoint.waiting import Clock
from codistill.snapshots.keys import life_key, status_key
from codistill.snapshots.status import State, Status
from codistill.stores.base import Store


@final
@dataclass(frozen=True, slots=True)
class _Wait:
    """That the student stands still until others have done something."""

    what: Callable[[], str]
    since_s: float


@final
class Heartbeat:
    """Writes what a peer tells of itself, with a counter that moves, and notices when its name is taken.

    By it others see that the name is in use, and which snapshots must not be deleted yet.

    **Ranks**: rank 0; ``beat`` and ``announce`` on any thread.
    **Blocks**: while the store is written; ``show`` does not.
    **On failure**: ``beat`` raises and may be repeated; nothing is written after ``end``, nor once another
    life has taken the name.
    """

    def __init__(
        self, store: Store, life: Life, *, clock: Clock = time, began_s: float | None = None
    ) -> None:
        """Begin without having told anything.

        Args:
            store: Where to.
            life: Who tells.
            clock: Measures how long this life has lasted.
            began_s: When that began, by the clock; now if not given.
        """
        self._store = store
        self._life = life
        self._progress = Progress()
        self._held: Mapping[str, Order] = {}
        self._ages: Mapping[str, int] = {}
        self._quarantined: Set[str] = frozenset()
        self._clock = clock
        self._began_s = clock.monotonic() if began_s is None else began_s
        self._arriving: dict[str, Order] = {}
        self._wait: _Wait | None = None
        self._count = 0
        self._has_ended = False
        self._is_superseded = False
        self._errors: list[BaseException] = []
        self._lock = threading.Lock()

    @property
    def life(self) -> Life:
        """Who tells."""
        return self._life

    def show(
        self,
        progress: Progress,
        held: Mapping[str, Order],
        *,
        ages: Mapping[str, int] | None = None,
        quarantined: Set[str] = frozenset(),
    ) -> None:
        """Keep for the next beat how far the student is, what its teachers hold, how old, and who is bad.

        It is training, and waits for nobody.
        """
        self._wait = None
        self._progress, self._held = progress, held
        self._ages, self._quarantined = ages or {}, quarantined

    def note_wait(self, what: Callable[[], str], *, waited_s: float) -> None:
        """Tell, until it is shown how far the student is, that it waits.

        Args:
            what: Returns for what; asked at every beat.
            waited_s: For how long so far.
        """
        self._wait = _Wait(what, since_s=self._clock.monotonic() - waited_s)
        self.try_to_beat()

    def announce(self, peer: str, order: Order) -> None:
        """Tell that a snapshot is about to be read, so that it is not deleted meanwhile."""
        self._arriving = {**self._arriving, peer: order}
        self.try_to_beat()

    def note_read(self) -> None:
        """Keep for the next beat that nothing is being read any more."""
        self._arriving = {}

    def beat(self) -> None:
        """Write the status, unless another life has taken the name.

        Raises:
            StoreError: If the store refuses.
        """
        with self._lock:
            if self._has_ended or self._is_superseded:
                return
            if self._is_still_ours():
                self._write("running")

    def try_to_beat(self) -> None:
        """Write the status; what hinders it is kept for ``take_errors``."""
        try:
            self.beat()
        except BaseException as error:  # noqa: BLE001 - raised again on the training thread
            self._errors.append(error)

    def take_errors(self) -> list[BaseException]:
        """Return what has hindered beats since the last time."""
        errors, self._errors = self._errors, []
        return errors

    @property
    def is_superseded(self) -> bool:
        """Whether a later life of this peer has been claimed."""
        return self._is_superseded

    def check_is_ours(self) -> None:
        """Raise ``PeerTakenError`` if a later life of this peer has been claimed."""
        if self._is_superseded:
            raise PeerTakenError(
                self.superseded_message(),
                peer=self._life.peer,
                step=self._progress.step,
                key=life_key(self._life.peer, self._life.incarnation + 1),
            )

    def superseded_message(self) -> str:
        """Return what to say when the name has been taken over."""
        return (
            f"Peer {self._life.peer!r} has been taken over by another job, a later life than this one "
            f"(incarnation {self._life.incarnation}). This job has stopped publishing; stop it, or start it "
            "again under a name of its own."
        )

    def end(self, state: State) -> None:
        """Write the last status of this life.

        Args:
            state: How it ended.

        Raises:
            StoreError: If the store refuses.
        """
        with self._lock:
            if not self._has_ended and self._is_still_ours():
                self._write(state)
            self._has_ended = True

    def is_still_ours(self) -> bool:
        """Return whether no later life of this peer has been claimed, having looked in the store.

        Raises:
            StoreError: If the store cannot be read.
        """
        with self._lock:
            return self._is_still_ours()

    def _is_still_ours(self) -> bool:
        if not self._is_superseded:
            self._is_superseded = has_been_followed(self._store, self._life.peer, self._life.incarnation)
        return not self._is_superseded

    def _write(self, state: State) -> None:
        self._count += 1
        progress, wait, now_s = self._progress, self._wait, self._clock.monotonic()
        stall_s = progress.stall_s
        if wait is not None:
            stall_s = (stall_s or 0.0) + now_s - wait.since_s
        status = Status(
            run_id=self._life.run_id,
            peer=self._life.peer,
            incarnation=self._life.incarnation,
            heartbeat=self._count,
            step=progress.step,
            samples=progress.samples,
            task_loss=progress.task_loss,
            distillation_loss=progress.distillation_loss,
            state=state,
            reading={**self._held, **self._arriving},
            weight=progress.weight,
            agreement=progress.agreement,
            ages=self._ages,
            quarantined=tuple(sorted(self._quarantined)),
            stall_s=stall_s,
            running_s=now_s - self._began_s,
            advice=progress.advice,
            waits_for=None if wait is None or state != "running" else wait.what(),
        )
        self._store.write(status_key(self._life.peer), status.to_json())
