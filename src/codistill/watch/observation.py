"""One look at a store: what its peers tell, and what cannot be read."""

from dataclasses import dataclass
from typing import Final

from codistill.errors import KeyMissingError, SnapshotError, StoreError
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.inspection import read_told
from codistill.exchange.checkpoint.roster import Order
from codistill.snapshots.keys import RUN_KEY, is_peer_name, status_key
from codistill.snapshots.run import MAX_RUN_BYTES, Run
from codistill.snapshots.status import Status
from codistill.stores.base import Store
from codistill.watch.printable import printable

MOST_PEERS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerObservation:
    """What there is of one peer at this moment."""

    peer: str
    """Its name."""
    status: Status | None
    """What it tells of itself; None if it has told nothing, or nothing that can be read."""
    newest: Order | None
    """(incarnation, sequence) of its newest snapshot; None if there is none that can be found."""
    problems: tuple[str, ...]
    """What cannot be read, and why; may be printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What there is of a run at this moment."""

    run_id: str
    """Id of the run."""
    peers: tuple[PeerObservation, ...]
    """By name, at most 1000."""
    problems: tuple[str, ...]
    """What is wrong with the run as a whole; may be printed."""


def observe(store: Store) -> Observation:
    """Read who publishes in a store, what each tells, and which snapshot is its newest; no weights.

    A peer that cannot be read does not hide the others.

    **Ranks**: any process, whether it takes part in the run or not.
    **Blocks**: while a document of the run and two of each peer are read, 64 KiB of each at most.
    **On failure**: raises, having changed nothing.

    Args:
        store: Where from.

    Raises:
        StoreError: If the store cannot be reached, or holds no run.
        SnapshotError: If it holds something else.
    """
    try:
        content = store.read(RUN_KEY, max_bytes=MAX_RUN_BYTES + 1)
    except KeyMissingError as error:
        raise StoreError(f"There is no {RUN_KEY} any more.", key=RUN_KEY) from error
    run_id = Run.from_json(content, key=RUN_KEY).run_id
    # One more than are shown tells that there are more.
    names = [name for name in store.list_names("", limit=MOST_PEERS + 2) if is_peer_name(name)]
    problems: tuple[str, ...] = ()
    if len(names) > MOST_PEERS:
        problems = (f"There are more than {MOST_PEERS} peers; only the first {MOST_PEERS} are shown.",)
    return Observation(
        run_id=run_id,
        peers=tuple(_observe_peer(store, run_id, name) for name in names[:MOST_PEERS]),
        problems=problems,
    )


def _observe_peer(store: Store, run_id: str, peer: str) -> PeerObservation:
    status, newest, problems = None, None, []
    try:
        status = read_told(store, peer)
    except (SnapshotError, StoreError) as error:
        problems.append(printable(str(error)))
    if status is not None and status.run_id != run_id:
        problems.append(f"The status at {status_key(peer)!r} must be of run {run_id}, got {status.run_id}.")
        status = None
    try:
        pointer = Fetcher(store, run_id=run_id, max_bytes=None).pointer(peer)
        newest = None if pointer is None else pointer.order
    except (SnapshotError, StoreError) as error:
        problems.append(printable(str(error)))
    return PeerObservation(peer=peer, status=status, newest=newest, problems=tuple(problems))
