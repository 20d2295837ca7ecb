"""Running free: each teacher gets the newest snapshot there is, and nobody waits."""

from typing import final

from typing_extensions import override

from codistill.errors import CodistillError, KeyMissingError, PeerMissingError, SnapshotError, StoreError
from codistill.exchange.checkpoint.classroom import Classroom
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.membership import Membership, PeerFinder
from codistill.exchange.checkpoint.notices import Notices
from codistill.exchange.checkpoint.reader import Reader
from codistill.exchange.checkpoint.waiting import Clock, wait_until
from codistill.snapshots.pointer import Pointer

_NEVER = (-1, -1)


@final
class NewestReader(Reader):
    """Takes what each teacher's peer has published last, where that is newer than what it holds.

    It never goes back to an older snapshot than it has seen.

    **Blocks**: while the store is read.
    **On failure**: what cannot be read or used is warned of once, and not downloaded again; the last
    good teacher stays.
    """

    def __init__(
        self,
        finder: PeerFinder,
        fetcher: Fetcher,
        classroom: Classroom,
        notices: Notices,
        *,
        membership: Membership,
        clock: Clock,
    ) -> None:
        self._finder = finder
        self._fetcher = fetcher
        self._classroom = classroom
        self._notices = notices
        self._membership = membership
        self._clock = clock
        self._refused: dict[str, tuple[int, int]] = {}

    @override
    def meet(self, step: int) -> None:
        count = self._membership.start_with_peers
        found: dict[str, Pointer] = {}

        def are_enough() -> bool | None:
            found.update(self._finder.find()[0])
            return True if len(found) >= count else None

        timeout_s = self._membership.start_timeout_s
        if count and wait_until(are_enough, timeout_s=timeout_s, clock=self._clock) is None:
            raise PeerMissingError(
                f"start_with_peers must be met within {timeout_s} s, got {len(found)} of {count} other peers"
                f"{': ' if found else ''}{', '.join(sorted(found))}. Start the others, or wait for fewer.",
                step=step,
            )
        self._take_newest(step, is_strict=True)

    @override
    def update(self, step: int) -> None:
        with self._notices.instead_of_store_errors("find peers"):
            self._take_newest(step, is_strict=False)

    def _take_newest(self, step: int, *, is_strict: bool) -> None:
        pointers, errors = self._finder.find()
        held = self._classroom.orders
        # A peer whose pointer cannot be read just now is still there.
        wanted = self._finder.teachers({*pointers, *(errors.keys() & held.keys())})
        self._classroom.keep_only(wanted)
        for name in wanted:
            pointer = pointers.get(name)
            try:
                if name in errors:
                    raise errors[name]
                known = max(held.get(name, _NEVER), self._refused.get(name, _NEVER))
                if pointer is not None and pointer.order > known:
                    self._take(pointer, step)
                    self._notices.has_passed(("fetch", name))
            except (SnapshotError, StoreError) as error:
                if is_strict:
                    raise
                self._refuse(name, pointer, error, step)

    def _take(self, pointer: Pointer, step: int) -> None:
        reference = pointer.manifest
        try:
            self._classroom.take(self._fetcher.manifest(reference), reference, first_seen_step=step)
        except KeyMissingError:
            # Its publisher has replaced and deleted it meanwhile.
            newer = self._fetcher.pointer(pointer.peer)
            if newer is None or newer.order <= pointer.order:
                raise
            reference = newer.manifest
            self._classroom.take(self._fetcher.manifest(reference), reference, first_seen_step=step)

    def _refuse(self, name: str, pointer: Pointer | None, error: CodistillError, step: int) -> None:
        if pointer is not None and isinstance(error, SnapshotError):
            self._refused[name] = pointer.order
        self._notices.say(
            ("fetch", name), f"Nothing new was taken from peer {name!r} at step {step}: {error}"
        )
