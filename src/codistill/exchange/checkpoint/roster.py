"""Which peers a student has seen, and since when it has seen nothing newer of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self, final

Order = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sighted:
    """The newest snapshot that was seen of a peer."""

    order: Order
    """Its (incarnation, sequence)."""
    step: int
    """The student's step when it was first seen."""
    is_finished: bool = False
    """Whether it is known to be the peer's last."""
    is_checked: bool = False
    """Whether its manifest has been read, which says so."""


@final
class Roster:
    """Remembers the highest (incarnation, sequence) of every peer, so that no reader ever goes back.

    Example:
        >>> roster = Roster()
        >>> roster.see("b", (0, 3), step=100)
        True
        >>> roster.see("b", (0, 2), step=150), roster.age_steps("b", step=150)
        (False, 50)
    """

    def __init__(self, seen: Mapping[str, Sighted] | None = None) -> None:
        """Begin with what an earlier life had seen.

        Args:
            seen: By peer.
        """
        self._seen = dict(seen or {})

    @property
    def peers(self) -> Mapping[str, Sighted]:
        """The newest that was seen of every peer."""
        return self._seen

    def copy(self) -> Self:
        """Return one that changes without this one."""
        return type(self)(self._seen)

    def see(self, peer: str, order: Order, *, step: int) -> bool:
        """Note a snapshot; return False for one that is older than one that was seen.

        Args:
            peer: Whose.
            order: Its (incarnation, sequence).
            step: The student's step.
        """
        known = self._seen.get(peer)
        if known is not None and order <= known.order:
            return order == known.order
        self._seen[peer] = Sighted(order, step)
        return True

    def note_whether_finished(self, peer: str, is_finished: bool) -> None:
        """Note what the manifest of a peer's newest snapshot says of its being the last."""
        self._seen[peer] = replace(self._seen[peer], is_finished=is_finished, is_checked=True)

    def age_steps(self, peer: str, *, step: int) -> int:
        """Return the student's steps since it saw the newest snapshot of a peer first."""
        return step - self._seen[peer].step
