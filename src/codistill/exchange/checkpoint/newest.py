"""Running free: each teacher gets the newest snapshot there is, and nobody waits."""

from typing import final

from typing_extensions import override

from codistill.errors import CodistillError, PeerMissingError, SnapshotError, StoreError
from codistill.exchange.checkpoint.classroom import Classroom
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.membership import Membership, PeerFinder
from codistill.exchange.checkpoint.notices import Notices
from codistill.exchange.checkpoint.reader import Reader
from codistill.exchange.checkpoint.waiting import Clock, wait_until
from codistill.snapshots.pointer import Pointer

_NEVER = (-1, -1)
_LONG_INTERVALS = 10


@final
class NewestReader(Reader):
    """Takes what each teacher's peer has published last, where that is newer than what it holds.

    It never goes back to an older snapshot than it has seen.

    **Blocks**: while the store is read.
    **On failure**: what cannot be read or used is warned of once, and not downloaded again; the last
    good teacher stays. With ``start_with_peers`` it is raised at the start, and later warned of.
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
        self._intervals_alone = 0

    @override
    def meet(self, step: int) -> None:
        count = self._membership.start_with_peers
        if count > 0:
            self._wait_for(count, step)
        self._take_newest(step, is_strict=count > 0)

    @override
    def update(self, step: int) -> None:
        with self._notices.instead_of_store_errors("find peers"):
            self._take_newest(step, is_strict=False)
        self._notice_being_alone(step)

    def take_newest_of(self, peer: str, step: int) -> None:
        """Take what one peer has published last, if anything; errors are warned of."""
        pointer: Pointer | None = None
        try:
            pointer = self._fetcher.pointer(peer)
            if pointer is not None:
                self._take(pointer, step)
        except (SnapshotError, StoreError) as error:
            self._refuse(peer, pointer, error, step)

    def _wait_for(self, count: int, step: int) -> None:
        pointers: dict[str, Pointer] = {}
        errors: dict[str, CodistillError] = {}

        def are_enough() -> bool | None:
            nonlocal pointers, errors
            pointers, errors = self._finder.find()
            return True if len(pointers) >= count else None

        timeout_s = self._membership.start_timeout_s
        if wait_until(are_enough, timeout_s=timeout_s, clock=self._clock) is None:
            names = f": {', '.join(sorted(pointers))}" if pointers else ""
            reasons = "".join(f" {name!r} does not count: {error}" for name, error in errors.items())
            raise PeerMissingError(
                f"start_with_peers must be met within {timeout_s} s, got {len(pointers)} of {count} other "
                f"peers{names}. Start the others, or wait for fewer.{reasons}",
                step=step,
            )

    def _take_newest(self, step: int, *, is_strict: bool) -> None:
        pointers, errors = self._finder.find()
        held = self._classroom.orders
        # A peer whose pointer is not to be read just now is still there.
        wanted = self._finder.teachers({*pointers, *held})
        self._classroom.keep_only(wanted)
        self._notice_being_crowded({*pointers, *held})
        for name in sorted({*wanted, *errors}):
            pointer = pointers.get(name)
            try:
                if name in errors:
                    raise errors[name]
                known = max(held.get(name, _NEVER), self._refused.get(name, _NEVER))
                if pointer is not None and pointer.order > known:
                    self._take(pointer, step)
                    self._notices.has_passed(("fetch", name))
                self._notices.store_works(("fetch", name))
            except (SnapshotError, StoreError) as error:
                if is_strict:
                    raise
                self._refuse(name, pointer, error, step)

    def _take(self, pointer: Pointer, step: int) -> None:
        self._fetcher.follow(
            pointer,
            lambda manifest, reference: self._classroom.take(manifest, reference, first_seen_step=step),
        )

    def _refuse(self, name: str, pointer: Pointer | None, error: CodistillError, step: int) -> None:
        message = f"Nothing new was taken from peer {name!r} at step {step}: {error}"
        if isinstance(error, StoreError):
            self._notices.store_failed(("fetch", name), message)
            return
        if pointer is not None:
            self._refused[name] = pointer.order
        self._notices.say(("fetch", name), message)

    def _notice_being_crowded(self, present: set[str]) -> None:
        left_out = self._finder.left_out(present)
        if left_out:
            self._notices.say(
                "crowded",
                f"There are more teachers than max_teachers: {', '.join(left_out)} will not be learnt from. "
                "Pass TeacherOptions(max_teachers=...) for more of them, or topology='ring' for one.",
            )

    def _notice_being_alone(self, step: int) -> None:
        is_alone = self._finder.expects_teachers and not self._classroom.orders
        self._intervals_alone = self._intervals_alone + 1 if is_alone else 0
        if self._intervals_alone == _LONG_INTERVALS:
            self._notices.say(
                "alone",
                f"There has been no teacher for {_LONG_INTERVALS} intervals, up to step {step}: this is not "
                "codistillation yet. Start the other peers with the same store, which they must all see.",
            )
