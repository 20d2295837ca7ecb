"""Who takes part in a run, and under which name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from codistill.arguments import check_int, check_seconds, check_type
from codistill.errors import CodistillError, RunExistsError, SnapshotError, StoreError
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.snapshots.keys import RUN_KEY, check_peer_name, is_peer_name, life_key
from codistill.snapshots.manifest import Manifest
from codistill.snapshots.pointer import Pointer
from codistill.snapshots.run import LIFE_DOCUMENT, MAX_RUN_BYTES, Run, new_run
from codistill.stores.base import Store
from codistill.topologies import All, Ring, Topology

MAX_PEERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """How a peer joins a run.

    Raises:
        TypeError, ValueError: If a field is not as described.
    """

    start_with_peers: int = 0
    """Others whose first snapshot to wait for at the start; 0 waits for nobody."""
    start_timeout_s: float = 600.0
    """How long to wait for them, in seconds."""
    rejoin: bool = False
    """Let a job that starts at step 0 go on under a name that has snapshots already."""

    def __post_init__(self) -> None:
        """Check every field."""
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


def open_run(store: Store) -> str:
    """Return the id of the run in ``store``, creating it if this is the first peer.

    Raises:
        StoreError: If the store cannot be written.
        SnapshotFormatError: If what is there was written by a newer version.
    """
    run = new_run()
    if store.create(RUN_KEY, run.to_json()):
        return run.run_id
    return Run.from_json(store.read(RUN_KEY, max_bytes=MAX_RUN_BYTES), key=RUN_KEY).run_id


def claim_life(store: Store, peer: str, *, after: int | None) -> int:
    """Return the number of this peer's new life, higher than any before it.

    Args:
        store: The run's store.
        peer: The peer's name.
        after: The last incarnation known; None if none is.
    """
    incarnation = 0 if after is None else after + 1
    while not store.create(life_key(peer, incarnation), LIFE_DOCUMENT):
        incarnation += 1
    return incarnation


def check_new(newest: Manifest, store: Store) -> None:
    """Refuse a job that starts at step 0 on top of its own old snapshots.

    A snapshot of step 0 is none to protect: a job that was started before and found nobody left it.

    Args:
        newest: What the peer published last.
        store: Where, for the message.

    Raises:
        RunExistsError: If there is training in it.
    """
    if newest.step > 0:
        raise RunExistsError(
            f"Peer {newest.peer!r} has published step {newest.step} at {store.describe()} before, and this "
            "job starts at step 0. Choose an empty store for a new run, load the peer's state_dict to "
            "resume, or pass Membership(rejoin=True).",
            peer=newest.peer,
            step=newest.step,
            key=newest.key,
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
