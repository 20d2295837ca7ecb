"""What a peer that runs free says of what it finds in the store."""

from collections import Counter
from typing import Final, final

from codistill.errors import KeyMissingError, StoreError
from codistill.exchange.checkpoint.changes import Changes
from codistill.exchange.checkpoint.classroom import Classroom
from codistill.exchange.checkpoint.sighting import Sighting
from codistill.exchange.checkpoint.store_side import StoreSide
from codistill.exchange.notices import Notices

_LONG_INTERVALS: Final = 10
# Who starts a little later than the others is young for one or two.
_YOUNG_SNAPSHOTS: Final = 3


@final
class Commentary:
    """Warns, once each, of what keeps a student from being taught.

    **Ranks**: rank 0.
    """

    def __init__(self, notices: Notices) -> None:
        """Begin with nothing said.

        Args:
            notices: What is said goes there.
        """
        self._notices = notices
        self._unread: set[str] = set()
        self._young: Counter[str] = Counter()
        self._intervals_alone = 0

    def on_sighting(self, sighting: Sighting) -> bool:
        """Say what was found; return whether the store itself has failed, for all that was asked of it."""
        notices, step = self._notices, sighting.look.progress.step
        if sighting.store_error is not None:
            notices.store_failed(
                "find peers",
                f"{sighting.store_error} Training goes on, and it is tried again at a later interval.",
            )
            return True
        notices.store_works("find peers")
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
            self._young.pop(peer, None)
            for subject in ("young", "stale"):
                notices.has_passed((subject, peer))
        for peer in sighting.too_young:
            self._young[peer] += 1
            if self._young[peer] < _YOUNG_SNAPSHOTS:
                continue
            is_taught = peer in sighting.look.held
            notices.say(
                ("young", peer),
                f"{'Nothing newer is learnt' if is_taught else 'Nothing is learnt'} from peer {peer!r} yet: "
                f"at step {step} its newest snapshot has been trained on less than half of this peer's "
                f"{sighting.look.progress.samples} samples.",
            )
        if sighting.left_out:
            notices.say(
                "crowded",
                f"There are more teachers than max_teachers: {', '.join(sighting.left_out)} will not be "
                "learnt from. Pass TeacherOptions(max_teachers=...) for more of them, or topology='ring' for "
                "one.",
            )
        is_away = {peer for peer, error in sighting.errors.items() if _is_outage(error)}
        # One peer whose snapshot cannot be read must not make all others rarer.
        return bool(sighting.wanted) and is_away.issuperset(sighting.wanted or ())

    def on_stale(self, classroom: Classroom, pending: Changes | None) -> None:
        """Say whose teacher counts less because it is old.

        Args:
            classroom: The teachers.
            pending: What is to become of them when the ranks meet next.
        """
        arriving = frozenset[str]() if pending is None else pending.coming
        for peer, info in classroom.describe().items():
            if info.share < 1.0 and not info.is_quarantined and peer not in arriving:
                self._notices.say(
                    ("stale", peer),
                    f"Peer {peer!r} has published nothing new for {info.age_steps} steps: its teacher counts "
                    f"less and less (now {info.share:.2f}), until there is a new snapshot.",
                )

    def on_being_alone(self, side: StoreSide, classroom: Classroom, step: int) -> None:
        """Say that there has been no teacher for long; asked once an interval."""
        is_alone = side.finder.expects_teachers and not classroom.peers
        self._intervals_alone = self._intervals_alone + 1 if is_alone else 0
        if self._intervals_alone == _LONG_INTERVALS:
            self._notices.say(
                "alone",
                f"There has been no teacher for {_LONG_INTERVALS} intervals, up to step {step}: this is no "
                "codistillation. Start the other peers, or start them again, with the same store, which they "
                "must all see.",
            )


def _is_outage(error: BaseException) -> bool:
    """Return whether it is the store that fails, rather than one snapshot that is not there."""
    return isinstance(error, StoreError) and not isinstance(error, KeyMissingError)
