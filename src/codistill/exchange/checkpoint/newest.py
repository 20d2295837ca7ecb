"""Running free: each teacher gets the newest snapshot there is, and nobody waits."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

from typing_extensions import override

from codistill.errors import (
    CodistillError,
    PeerMissingError,
    SnapshotError,
    SnapshotIntegrityError,
    StoreError,
)
from codistill.exchange.checkpoint.fading import Fading
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.heartbeat import Heartbeat
from codistill.exchange.checkpoint.membership import PeerFinder
from codistill.exchange.checkpoint.newcomers import Newcomers
from codistill.exchange.checkpoint.part_reader import NotFiniteError
from codistill.exchange.checkpoint.quarantine import is_worse
from codistill.exchange.checkpoint.reader import Reader
from codistill.exchange.checkpoint.roster import Order, Roster
from codistill.exchange.checkpoint.sighting import Arrival, Discovery, Look, Sighting
from codistill.exchange.checkpoint.waiting import Clock, wait_until
from codistill.snapshots.codec import first_nan
from codistill.snapshots.manifest import Manifest, ManifestReference
from codistill.snapshots.pointer import Pointer

_NEVER = (-1, -1)
# Waiting is nothing wrong, so no warning of Python's; without logging set up it is printed all the same.
_logger = logging.getLogger("codistill")


@final
class NewestReader(Reader):
    """Reads what each teacher's peer has published last, where that is newer than what is held.

    It never goes back to an older snapshot than has been seen.

    **Ranks**: rank 0, any one thread at a time.
    **Blocks**: while the store is read.
    **On failure**: what cannot be read or used stands in the sighting, and is not downloaded again.
    """

    def __init__(
        self,
        finder: PeerFinder,
        fetcher: Fetcher,
        heartbeat: Heartbeat,
        newcomers: Newcomers,
        *,
        fading: Fading,
        check_fits: Callable[[Manifest], None],
    ) -> None:
        """Read one run.

        Args:
            finder: Knows who takes part.
            fetcher: Reads snapshots.
            heartbeat: Tells the others what is being read.
            newcomers: Knows who has not trained yet, and whether it lives.
            fading: How long a silent peer belongs to the run.
            check_fits: Refuses a snapshot that no teacher can hold.
        """
        self._finder = finder
        self._fetcher = fetcher
        self._heartbeat = heartbeat
        self._newcomers = newcomers
        self._fading = fading
        self._check_fits = check_fits
        self._passed_over: dict[str, Order] = {}
        self._suspect: dict[str, Order] = {}

    def wait_for(self, count: int, *, timeout_s: float, clock: Clock, step: int) -> None:
        """Wait until that many others have published, and not only ended jobs' untrained weights.

        **Blocks**: up to the timeout; a long wait is logged.

        Args:
            count: How many.
            timeout_s: For how long.
            clock: To wait by.
            step: The student's, for the error.

        Raises:
            PeerMissingError: If they do not.
        """
        found = _Found()

        def are_enough() -> bool | None:
            nonlocal found
            self._heartbeat.check_is_ours()
            before, found = found, self._find()
            # Who has just come looks whether this heart beats.
            if not found.pointers.keys() <= before.pointers.keys():
                self._heartbeat.try_to_beat()
            return True if len(found.pointers) >= count else None

        def what() -> str:
            dead = "".join(f"; peer {name!r} {reason}" for name, reason in found.not_counted.items())
            return f"the first snapshots of others: {len(found.pointers)} of {count} are there{dead}"

        def say(waited_s: float) -> None:
            _logger.warning(
                "Waiting for up to %g s (start_with_peers) for %s. Start another job on this store, with a "
                "peer name of its own.",
                timeout_s,
                what(),
            )
            self._heartbeat.note_wait(what, waited_s=waited_s)

        if wait_until(are_enough, timeout_s=timeout_s, clock=clock, on_long_wait=say) is None:
            names = f": {', '.join(sorted(found.pointers))}" if found.pointers else ""
            reasons = {name: f"it {reason}." for name, reason in found.not_counted.items()}
            why = "".join(
                f" {name!r} does not count: {it}" for name, it in {**reasons, **found.errors}.items()
            )
            raise PeerMissingError(
                f"start_with_peers must be met within {timeout_s} s, got {len(found.pointers)} of {count} "
                f"other peers{names}. Start the others, or wait for fewer.{why}",
                step=step,
            )

    def note_who_is_there(self) -> None:
        """Look before this peer has published itself: who comes later lives.

        Raises:
            StoreError: If the store cannot be read.
        """
        self._find()

    def pass_over(self, peer: str, order: Order) -> None:
        """Do not read this snapshot again."""
        self._passed_over[peer] = order

    @override
    def look(self, look: Look) -> Sighting:
        step = look.progress.step
        try:
            there = self._find()
        except StoreError as error:
            return Sighting(look=look, roster=look.roster, store_error=error)
        roster = look.roster.copy()
        # Who shows an older snapshot than before is there, but has nothing to read.
        newer = {
            peer: pointer
            for peer, pointer in there.pointers.items()
            if roster.see(peer, pointer.order, step=step)
        }
        # Whose untrained weights count no more teaches no more, though they are held.
        held = {peer for peer, order in look.held.items() if there.not_counted_orders.get(peer) != order}
        present = self._present({*there.pointers, *held}, newer, roster, step)
        wanted = tuple(
            peer for peer in self._finder.teachers(present) if peer in held or peer not in look.held
        )
        found: list[Arrival | Discovery] = []
        problems = dict(there.errors)
        not_finite, too_young = {}, []
        for peer in wanted:
            pointer = newer.get(peer)
            known = max(look.held.get(peer, _NEVER), self._passed_over.get(peer, _NEVER))
            if pointer is None or pointer.order <= known:
                continue
            try:
                arrival = self._fetcher.follow(
                    pointer, lambda manifest, reference: self._read(manifest, reference, look, roster)
                )
            except _NotYetError:
                too_young.append(peer)
            except NotFiniteError as error:
                not_finite[peer] = str(error)
            except SnapshotError as error:
                # Half an answer looks like a damaged file; what is damaged is so the second time too.
                if not isinstance(error, SnapshotIntegrityError) or self._suspect.get(peer) == pointer.order:
                    self.pass_over(peer, pointer.order)
                self._suspect[peer] = pointer.order
                problems[peer] = error
            except StoreError as error:
                problems[peer] = error
            else:
                if arrival is not None:
                    found.append(arrival)
        discoveries = tuple(one for one in found if isinstance(one, Discovery))
        # What ranks are to read in part must not be deleted before they have.
        if not discoveries:
            self._heartbeat.note_read()
        return Sighting(
            look=look,
            roster=roster,
            wanted=wanted,
            left_out=self._finder.left_out(present),
            arrivals=tuple(one for one in found if isinstance(one, Arrival)),
            discoveries=discoveries,
            errors=problems,
            not_finite=not_finite,
            too_young=tuple(too_young),
        )

    def _find(self) -> "_Found":
        """Return which other peers have published something that counts."""
        pointers, errors = self._finder.find()
        reasons, not_looked_at = self._newcomers.look(pointers.values())
        uncounted = {*reasons, *not_looked_at}
        return _Found(
            pointers={peer: pointer for peer, pointer in pointers.items() if peer not in uncounted},
            not_counted=reasons,
            not_counted_orders={peer: pointers[peer].order for peer in reasons},
            errors={**errors, **not_looked_at},
        )

    def _present(self, names: set[str], pointers: dict[str, Pointer], roster: Roster, step: int) -> set[str]:
        """Return who belongs to the run: whoever has not been silent for so long that it counts no more."""
        present = set()
        for peer in names:
            is_known = peer in roster.peers
            if is_known and self._fading.is_gone(roster.age_steps(peer, step=step)):
                self._find_out_whether_finished(peer, pointers.get(peer), roster)
                if not roster.peers[peer].is_finished:
                    continue
            present.add(peer)
        return present

    def _find_out_whether_finished(self, peer: str, pointer: Pointer | None, roster: Roster) -> None:
        if pointer is None or roster.peers[peer].is_finished or roster.peers[peer].is_checked:
            return
        try:
            is_finished = self._fetcher.manifest(pointer.manifest).finished
        except SnapshotError:
            is_finished = False
        except StoreError:
            return
        roster.note_whether_finished(peer, is_finished)

    def _read(
        self, manifest: Manifest, reference: ManifestReference, look: Look, roster: Roster
    ) -> Arrival | Discovery | None:
        """Return a snapshot; None if it is too bad to let its peer out of quarantine."""
        peer, step = manifest.peer, look.progress.step
        roster.see(peer, manifest.order, step=step)
        roster.note_whether_finished(peer, manifest.finished)
        if not manifest.finished and 2 * manifest.samples < look.progress.samples:
            self.pass_over(peer, manifest.order)
            raise _NotYetError
        if peer in look.quarantined and is_worse(manifest.task_loss, look.progress.task_loss):
            self.pass_over(peer, manifest.order)
            return None
        self._check_fits(manifest)
        self._heartbeat.announce(peer, manifest.order)
        first_seen_step = roster.peers[peer].step
        if look.is_divided(peer):
            return Discovery(manifest=manifest, reference=reference, first_seen_step=first_seen_step)
        arrival = self._fetcher.fetch(manifest, reference, first_seen_step=first_seen_step)
        name = first_nan(arrival.tensors)
        if name is not None:
            self.pass_over(peer, manifest.order)
            raise NotFiniteError(f"{name!r} of its snapshot at step {manifest.step} holds NaN")
        return arrival


@dataclass(frozen=True, slots=True)
class _Found:
    """Whom a look at all pointers has found."""

    pointers: Mapping[str, Pointer] = field(default_factory=dict)
    """Of all that count."""
    not_counted: Mapping[str, str] = field(default_factory=dict)
    """Why others do not."""
    errors: Mapping[str, CodistillError] = field(default_factory=dict)
    """What kept others from being looked at."""
    not_counted_orders: Mapping[str, Order] = field(default_factory=dict)
    """Which snapshots those are that do not count."""


class _NotYetError(Exception):
    """The peer has been trained on too few samples to teach this student."""
