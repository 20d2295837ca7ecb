"""Who learns from whom: rules from the names of the peers to the teachers of each."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from typing_extensions import override


class Topology(ABC):
    """A rule that gives every peer its teachers, from the names alone, so that all peers agree on it."""

    __slots__ = ()

    @abstractmethod
    def teachers(self, peers: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the teachers of each peer.

        Args:
            peers: Names, in any order: the result does not depend on it. One alone has no teachers.

        Returns:
            An entry a peer, in sorted order of names.

        Raises:
            TypeError: If ``peers`` is a string or holds something else than strings.
            ValueError: If ``peers`` is empty or repeats a name, or the rule does not fit these peers.
        """


@final
@dataclass(frozen=True, slots=True)
class Ring(Topology):
    """Each learns from the one before it in sorted order, the first from the last; two learn mutually.

    Example:
        >>> Ring().teachers(["c", "a", "b"])
        {'a': ('c',), 'b': ('a',), 'c': ('b',)}
    """

    @override
    def teachers(self, peers: Sequence[str]) -> dict[str, tuple[str, ...]]:
        names = _sorted_names(peers)
        return _alone(names) or {name: (names[index - 1],) for index, name in enumerate(names)}


@final
@dataclass(frozen=True, slots=True)
class All(Topology):
    """Each learns from all the others, in sorted order."""

    @override
    def teachers(self, peers: Sequence[str]) -> dict[str, tuple[str, ...]]:
        names = _sorted_names(peers)
        return {name: tuple(other for other in names if other != name) for name in names}


@final
@dataclass(frozen=True, slots=True)
class KRegular(Topology):
    """Each learns from the k before it in sorted order, nearest first, the first from the last.

    Raises:
        ValueError: If ``k < 1``; at ``teachers``, if there are not ``k`` other peers.
    """

    k: int
    """Teachers a peer, >= 1."""

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"k must be an int >= 1, got {self.k!r}. k=1 is a ring.")

    @override
    def teachers(self, peers: Sequence[str]) -> dict[str, tuple[str, ...]]:
        names = _sorted_names(peers)
        if len(names) > 1 and self.k > len(names) - 1:
            raise ValueError(
                f"k must be <= {len(names) - 1} for {len(names)} peers, got {self.k}. "
                "To learn from all of them use topology='all'."
            )
        return _alone(names) or {
            name: tuple(names[index - distance] for distance in range(1, self.k + 1))
            for index, name in enumerate(names)
        }


@final
@dataclass(frozen=True, slots=True)
class Star(Topology):
    """All learn from one peer, the centre, and it from all of them if that is mutual.

    Raises:
        ValueError: At ``teachers``, if there are several peers and the centre is none of them.
    """

    centre: str
    """Name of the peer in the middle."""
    mutual: bool = True
    """Whether the centre learns, too; else it has no teachers."""

    @override
    def teachers(self, peers: Sequence[str]) -> dict[str, tuple[str, ...]]:
        names = _sorted_names(peers)
        if len(names) > 1:
            _check_known("centre", [self.centre], names)
        leaves = tuple(name for name in names if name != self.centre)
        of_centre = leaves if self.mutual else ()
        return _alone(names) or {name: of_centre if name == self.centre else (self.centre,) for name in names}


@final
@dataclass(frozen=True, slots=True)
class Directed(Topology):
    """Peers learn along given edges; one without an incoming edge only teaches.

    Raises:
        ValueError: If there is no edge or one from a peer to itself; at ``teachers``, if there are several
            peers and an edge names none of them.

    Example:
        >>> Directed([("large", "small")]).teachers(["large", "small"])
        {'large': (), 'small': ('large',)}
    """

    edges: Iterable[tuple[str, str]]
    """Pairs (teacher, student); kept as a sorted tuple without repetitions."""

    def __post_init__(self) -> None:
        edges = tuple(sorted({(teacher, student) for teacher, student in self.edges}))
        if not edges:
            raise ValueError(
                "edges must hold at least one (teacher, student), got none. Name who teaches whom."
            )
        for teacher, student in edges:
            if teacher == student:
                raise ValueError(
                    f"edges must join different peers, got ({teacher!r}, {student!r}). "
                    "A peer does not teach itself."
                )
        object.__setattr__(self, "edges", edges)

    @override
    def teachers(self, peers: Sequence[str]) -> dict[str, tuple[str, ...]]:
        names = _sorted_names(peers)
        if len(names) > 1:
            _check_known("edges", [name for edge in self.edges for name in edge], names)
        return _alone(names) or {
            name: tuple(teacher for teacher, student in self.edges if student == name) for name in names
        }


_BY_NAME: dict[str, type[Ring] | type[All]] = {"all": All, "ring": Ring}


def as_topology(topology: str | Topology) -> Topology:
    """Return the topology that a name or a ``Topology`` stands for.

    Args:
        topology: ``"ring"``, ``"all"`` or a ``Topology``.

    Returns:
        A ``Topology``.

    Raises:
        TypeError: If it is neither.
        ValueError: If the name is unknown.
    """
    if isinstance(topology, Topology):
        return topology
    if not isinstance(topology, str):
        raise TypeError(f"topology must be a name or a Topology, got {topology!r}. Try 'ring'.")
    if topology not in _BY_NAME:
        names = ", ".join(map(repr, sorted(_BY_NAME)))
        raise ValueError(
            f"topology must be one of {names}, or a Topology, got {topology!r}. "
            "KRegular, Star and Directed take arguments: pass the object."
        )
    return _BY_NAME[topology]()


def _alone(names: list[str]) -> dict[str, tuple[str, ...]]:
    return {names[0]: ()} if len(names) == 1 else {}


def _sorted_names(peers: Sequence[str]) -> list[str]:
    if isinstance(peers, str) or not all(isinstance(name, str) for name in peers):
        raise TypeError(f"peers must be a list of names, got {peers!r}. Names are strings.")
    if not peers:
        raise ValueError("peers must hold at least one name, got none. A peer always knows itself.")
    names = sorted(peers)
    if len(set(names)) != len(names):
        raise ValueError(f"peers must be different names, got {names!r}. Two jobs may not share one.")
    return names


def _check_known(argument: str, used: Iterable[str], names: Sequence[str]) -> None:
    unknown = sorted(set(used) - set(names))
    if unknown:
        raise ValueError(
            f"{argument} must name peers, got {', '.join(map(repr, unknown))}. "
            f"The peers are {', '.join(map(repr, names))}."
        )
