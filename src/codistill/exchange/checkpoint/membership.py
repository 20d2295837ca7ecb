"""Who takes part in a run, and under which name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from codistill.arguments import check_int, check_seconds, check_type
from codistill.errors import CodistillError, SnapshotError, StoreError
from codistill.exchange.checkpoint.fading import Fading, WhenStale
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.snapshots.keys import check_peer_name, is_peer_name
from codistill.snapshots.pointer import Pointer
from codistill.stores.base import Store
from codistill.topologies import All, Ring, Topology

MAX_PEERS = 64
_INTERVALS_UNTIL_STALE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """How a peer joins a run, and how long it listens to those that have fallen silent.

    Raises:
        TypeError, ValueError: If a field is not as described.
    """

    max_age_steps: int | None = None
    """The age up to which a teacher counts fully, in the student's own steps; None is 20 intervals."""
    when_stale: WhenStale = "fade"
    """What becomes of it then: "fade" takes its share to 0 over as many steps again, "drop" at once, "keep"
    never. A peer that has finished never gets old."""
    start_with_peers: int = 0
    """Others whose first snapshot to wait for at the start; 0 waits for nobody. One of step 0 counts while
    its peer lives: not what a job left that ended before it had trained."""
    start_timeout_s: float = 600.0
    """How long to wait for them, in seconds."""
    rejoin: bool = False
    """Let a job that starts at step 0 go on under a name that has snapshots already. In lockstep only where
    it is the same run, cut off before its first checkpoint: the others' snapshots of its steps teach it."""

    def __post_init__(self) -> None:
        """Check every field."""
        if self.max_age_steps is not None:
            check_int("max_age_steps", self.max_age_steps, minimum=1, hint="It counts optimizer steps.")
        if self.when_stale not in get_args(WhenStale):
            choices = ", ".join(map(repr, get_args(WhenStale)))
            raise ValueError(f"when_stale must be one of {choices}, got {self.when_stale!r}.")
        check_int(
            "start_with_peers",
            self.start_with_peers,
            minimum=0,
            maximum=MAX_PEERS - 1,
            hint="It counts the other peers to wait for.",
        )
        check_seconds(
            "start_timeout_s", self.start_timeout_s, hint="To wait for nobody, pass start_with_peers=0."
        )
        check_type("rejoin", self.rejoin, bool)

    def fading(self, interval_steps: int) -> Fading:
        """Return how a teacher fades in a run with that interval."""
        return Fading(
            max_age_steps=self.max_age_steps or _INTERVALS_UNTIL_STALE * interval_steps,
            when_stale=self.when_stale,
        )


class PeerFinder:
    """Knows who takes part, and who of them teaches this peer."""

    def __init__(
        self,
        store: Store,
        fetcher: Fetcher,
        *,
        peer: str,
        peers: tuple[str, ...] | None,
        topology: Topology,
        max_teachers: int,
    ) -> None:
        """Look at one run.

        Args:
            store: Where names are listed when ``peers`` is None.
            fetcher: Reads pointers.
            peer: This peer.
            peers: Who takes part; None for whoever publishes under the run, 64 peers at most.
            topology: Who learns from whom.
            max_teachers: The most teachers to take.
        """
        self._store = store
        self._fetcher = fetcher
        self._peer = peer
        self._peers = peers
        self._topology = topology
        self._max_teachers = max_teachers

    @property
    def expects_teachers(self) -> bool:
        """Whether this peer is to have teachers, once the others are there."""
        return self._peers is None or bool(self.teachers(()))

    def others(self) -> list[str]:
        """Return the names of all other peers, whether they have published or not."""
        names = self._peers or self._store.list_names("", limit=MAX_PEERS + 1)
        return [name for name in names if name != self._peer and is_peer_name(name)]

    def find(self) -> tuple[dict[str, Pointer], dict[str, CodistillError]]:
        """Return the pointers of all other peers that have published.

        Returns:
            Pointers by peer, and by peer the error that kept its pointer from being read.

        Raises:
            StoreError: If the store cannot be listed.
        """
        pointers: dict[str, Pointer] = {}
        errors: dict[str, CodistillError] = {}
        for name in self.others():
            try:
                pointer = self._fetcher.pointer(name)
            except (SnapshotError, StoreError) as error:
                errors[name] = error
            else:
                if pointer is not None:
                    pointers[name] = pointer
        return pointers, errors

    def teachers(self, present: Iterable[str]) -> tuple[str, ...]:
        """Return the peers to learn from.

        Args:
            present: The others that have published; without meaning where ``peers`` is given.
        """
        return self._candidates(present)[: self._max_teachers]

    def left_out(self, present: Iterable[str]) -> tuple[str, ...]:
        """Return the peers to learn from for which there is no room; ``present`` as for ``teachers``."""
        return self._candidates(present)[self._max_teachers :]

    def _candidates(self, present: Iterable[str]) -> tuple[str, ...]:
        peers = self._peers or sorted({self._peer, *present})
        return self._topology.teachers(peers)[self._peer]


def check_peers(
    peer: str,
    peers: Sequence[str] | None,
    *,
    topology: Topology,
    max_teachers: int,
    start_with_peers: int,
) -> tuple[str, ...] | None:
    """Return ``peers``, sorted, if names, topology and limits go together.

    Raises:
        TypeError, ValueError: If they do not.
    """
    if peers is None:
        if not isinstance(topology, Ring | All):
            raise ValueError(
                f"peers must be given with topology {topology}, got None. "
                "Name them all, or use 'ring' or 'all'."
            )
        return None
    if isinstance(peers, str) or not isinstance(peers, Sequence):
        raise TypeError(f"peers must be a list of names, got {peers!r}. Pass [{peer!r}, ...].")
    names = tuple(sorted(check_peer_name(name, f"peers[{i}]") for i, name in enumerate(peers)))
    if peer not in names:
        raise ValueError(f"peers must hold this peer, {peer!r}, got {list(peers)}. Add it.")
    if len(names) > MAX_PEERS:
        raise ValueError(f"peers must be at most {MAX_PEERS}, got {len(names)}. Make several runs of them.")
    count = len(topology.teachers(names)[peer])
    if count > max_teachers:
        raise ValueError(
            f"max_teachers must be >= {count} for {len(names)} peers with topology {topology}, got "
            f"{max_teachers}. Pass TeacherOptions(max_teachers={count}), or topology='ring' for one teacher."
        )
    if start_with_peers > len(names) - 1:
        raise ValueError(
            f"start_with_peers must be <= {len(names) - 1}, the other peers that there are, "
            f"got {start_with_peers}."
        )
    return names
