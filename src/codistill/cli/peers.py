"""``codistill peers``: who publishes in a store, and how far they are."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from codistill.cli import output, parsing
from codistill.cli.existing_store import open_existing
from codistill.errors import KeyMissingError, SnapshotError
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.snapshots.info import SnapshotInfo
from codistill.snapshots.keys import is_peer_name, status_key
from codistill.snapshots.status import MAX_STATUS_BYTES, Status
from codistill.stores import Store

MOST_NAMES = 1000

StoreWord = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="STORE")]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLine:
    """One peer of a store; what it has not written yet is None."""

    peer: str
    """Its name."""
    incarnation: int | None = None
    """Which life of the peer its newest snapshot is of."""
    sequence: int | None = None
    """Which snapshot of that life."""
    step: int | None = None
    """Optimizer steps taken at that snapshot."""
    samples: int | None = None
    """Samples consumed at that snapshot."""
    size_bytes: int | None = None
    """Size of its tensors."""
    task_loss: float | None = None
    """Mean task loss since the snapshot before."""
    state: str | None = None
    """What it says of itself: running, finished or left. A peer that died still says running."""
    problem: str | None = None
    """Why its newest snapshot or its status cannot be used."""


def run(arguments: Sequence[str]) -> None:
    """Run the verb."""
    parsing.call(peers, arguments, verb="peers")


def peers(store: StoreWord, /, *, json: bool = False) -> None:
    """List the peers that publish in a store, by their newest snapshots.

    Args:
        store: The folder that the peers share; `codistill train` keeps it in OUT/ARM/seed-N/exchange.
        json: Print JSON.
    """
    lines = list_peers(open_existing(store))
    if json:
        output.print_json([asdict(line) for line in lines])
        return
    sides = {"peer": "left", "state": "left"}
    headings = ("peer", "incarnation", "sequence", "step", "samples", "bytes", "task loss", "state")
    output.print_table(
        {name: sides.get(name, "right") for name in headings}, [_cells(line) for line in lines]
    )
    for line in lines:
        if line.problem is not None:
            output.print_text(f"{line.peer}: {line.problem}")


def list_peers(store: Store) -> list[PeerLine]:
    """Return a line for every peer of a run, sorted by name.

    Raises:
        StoreError: If the store cannot be read.
    """
    names = [name for name in store.list_names("", limit=MOST_NAMES) if is_peer_name(name)]
    return [_line(store, name) for name in names]


def _line(store: Store, peer: str) -> PeerLine:
    state = None
    try:
        state = _state(store, peer)
        info = _newest(store, peer)
    except (SnapshotError, KeyMissingError) as e:
        return PeerLine(peer=peer, state=state, problem=str(e))
    if info is None:
        return PeerLine(peer=peer, state=state)
    return PeerLine(
        peer=peer,
        incarnation=info.incarnation,
        sequence=info.sequence,
        step=info.step,
        samples=info.samples,
        size_bytes=info.size_bytes,
        task_loss=info.task_loss,
        state=state,
    )


def _newest(store: Store, peer: str) -> SnapshotInfo | None:
    fetcher = Fetcher(store, run_id=None, max_bytes=None)
    pointer = fetcher.pointer(peer)
    return None if pointer is None else SnapshotInfo.from_manifest(fetcher.manifest(pointer.manifest))


def _state(store: Store, peer: str) -> str | None:
    key = status_key(peer)
    try:
        # One more than allowed, so that a longer document is refused rather than cut.
        content = store.read(key, max_bytes=MAX_STATUS_BYTES + 1)
    except KeyMissingError:
        return None
    return Status.from_json(content, key=key).state


def _cells(line: PeerLine) -> tuple[str, ...]:
    numbers = (line.incarnation, line.sequence, line.step, line.samples, line.size_bytes)
    return (
        line.peer,
        *("-" if number is None else f"{number:,}" for number in numbers),
        "-" if line.task_loss is None else f"{line.task_loss:.4f}",
        "unreadable" if line.problem is not None else line.state or "-",
    )
