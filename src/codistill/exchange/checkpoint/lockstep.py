"""Lockstep: peers wait for one another's snapshots at every interval."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from typing_extensions import override

from codistill.arguments import check_seconds
from codistill.errors import PeerMismatchError, PeerMissingError
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.heartbeat import Heartbeat
from codistill.exchange.checkpoint.lives import read_status
from codistill.exchange.checkpoint.membership import PeerFinder
from codistill.exchange.checkpoint.reader import Reader
from codistill.exchange.checkpoint.sighting import Discovery, Look, Sighting
from codistill.exchange.checkpoint.waiting import Clock, wait_until
from codistill.snapshots.codec import first_nan
from codistill.snapshots.manifest import Manifest, ManifestReference
from codistill.snapshots.pointer import Pointer
from codistill.stores.base import Store

_Found = tuple[Manifest, ManifestReference]
_logger = logging.getLogger("codistill")


@dataclass(frozen=True, slots=True)
class Lockstep:
    """Wait at every interval for every other peer's snapshot of exactly that step.

    For papers, tests and runs that must be reproducible to the bit. It gives up what codistillation is
    for: a peer that dies stops the others.

    Raises:
        TypeError: If the timeout is no number.
        ValueError: If it is not > 0.
    """

    timeout_s: float = 1800.0
    """How long to wait for the others before giving up, in seconds."""

    def __post_init__(self) -> None:
        """Check the field."""
        check_seconds("timeout_s", self.timeout_s, hint="Pass lockstep=False to wait for nobody.")


@final
class LockstepReader(Reader):
    """Finds every other peer's snapshot of one step, waiting for those that are not there yet.

    A peer that has finished is not waited for: its last snapshot serves.

    **Ranks**: rank 0.
    **Blocks**: until all are there, up to the timeout; the first long wait is logged.
    **On failure**: raises ``PeerMissingError``, ``PeerMismatchError`` (another interval) or what is wrong
    with a snapshot.
    """

    def __init__(
        self,
        finder: PeerFinder,
        store: Store,
        fetcher: Fetcher,
        *,
        interval_steps: int,
        timeout_s: float,
        clock: Clock,
        check_fits: Callable[[Manifest], None],
        heartbeat: Heartbeat,
    ) -> None:
        """Read one run.

        Args:
            finder: Knows who takes part.
            store: Where statuses are.
            fetcher: Reads snapshots.
            interval_steps: What every peer's interval must be.
            timeout_s: How long to wait.
            clock: To wait by.
            check_fits: Refuses a snapshot that no teacher can hold.
            heartbeat: Tells the others for whom this peer waits, and knows whether its name has been taken.
        """
        self._finder = finder
        self._store = store
        self._fetcher = fetcher
        self._check_fits = check_fits
        self._heartbeat = heartbeat
        self._interval_steps = interval_steps
        self._timeout_s = timeout_s
        self._clock = clock
        self._newest: dict[str, tuple[Pointer, Manifest]] = {}
        self._has_said = False

    @override
    def look(self, look: Look) -> Sighting:
        step = look.progress.step
        deadline_s = self._clock.monotonic() + self._timeout_s
        found = {peer: self._wait(peer, step, deadline_s) for peer in self._finder.others()}
        wanted = self._finder.teachers(found)
        roster = look.roster.copy()
        arrivals, discoveries, not_finite = [], [], {}
        for peer in wanted:
            manifest, reference = found[peer]
            # The last snapshot of a peer that has finished comes again and again, and ages.
            if look.held.get(peer) != reference.order:
                self._check_fits(manifest)
                roster.see(peer, reference.order, step=step)
                if look.is_divided(peer):
                    discoveries.append(
                        Discovery(manifest=manifest, reference=reference, first_seen_step=step)
                    )
                    continue
                arrivals.append(self._fetcher.fetch(manifest, reference, first_seen_step=step))
                name = first_nan(arrivals[-1].tensors)
                if name is not None:
                    not_finite[peer] = f"{name!r} of its snapshot at step {manifest.step} holds NaN"
        return Sighting(
            look=look,
            roster=roster,
            wanted=wanted,
            arrivals=tuple(arrivals),
            discoveries=tuple(discoveries),
            not_finite=not_finite,
        )

    def _wait(self, peer: str, step: int, deadline_s: float) -> _Found:
        found = wait_until(
            lambda: self._at(peer, step),
            timeout_s=max(0.0, deadline_s - self._clock.monotonic()),
            clock=self._clock,
            on_long_wait=lambda waited_s: self._say(peer, step, waited_s),
        )
        if found is None:
            raise PeerMissingError(
                f"Peer {peer!r} did not publish step {step} within {self._timeout_s} s. "
                "Start it, resume this run later from its state_dict, or train without lockstep, "
                "where peers wait for nobody.",
                peer=peer,
                step=step,
            )
        return found

    def _say(self, peer: str, step: int, waited_s: float) -> None:
        self._heartbeat.note_wait(lambda: f"peer {peer!r} to publish step {step}", waited_s=waited_s)
        if not self._has_said:
            self._has_said = True
            _logger.warning(
                "Waiting for peer %r to publish step %d, for up to %g s (lockstep); not said again.",
                peer,
                step,
                self._timeout_s,
            )

    def _at(self, peer: str, step: int) -> _Found | None:
        self._heartbeat.check_is_ours()
        pointer = self._fetcher.pointer(peer)
        if pointer is None:
            return None
        newest = self._read_newest(pointer)
        if newest.step > step:
            return self._walk_back(newest, step)
        if newest.step == step or (newest.finished and not self._has_come_back(pointer)):
            return newest, pointer.manifest
        return None

    def _read_newest(self, pointer: Pointer) -> Manifest:
        known = self._newest.get(pointer.peer)
        if known is not None and known[0] == pointer:
            return known[1]
        manifest = self._fetcher.manifest(pointer.manifest)
        if manifest.interval_steps != self._interval_steps:
            raise PeerMismatchError(
                f"interval_steps must be the same for all peers in lockstep, got {self._interval_steps} here "
                f"and {manifest.interval_steps} at peer {pointer.peer!r}. Start all peers with one interval.",
                peer=pointer.peer,
                step=manifest.step,
            )
        self._newest[pointer.peer] = (pointer, manifest)
        return manifest

    def _walk_back(self, newest: Manifest, step: int) -> _Found:
        """Follow ``previous`` to the snapshot of ``step``: the peer is ahead, or was before it resumed."""
        manifest, reference = newest, newest.previous
        while reference is not None:
            manifest = self._fetcher.manifest(reference)
            if manifest.step <= step:
                break
            reference = manifest.previous
        if reference is None or manifest.step != step:
            raise PeerMissingError(
                f"Peer {newest.peer!r} is at step {newest.step} and has no snapshot of step {step}. "
                "Resume all peers of a lockstep run from state saved by that run.",
                peer=newest.peer,
                step=step,
            )
        return manifest, reference

    def _has_come_back(self, pointer: Pointer) -> bool:
        """Tell whether a peer that had finished trains on: its status is of a later life."""
        status = read_status(self._store, pointer.peer)
        return status is not None and status.incarnation > pointer.incarnation
