"""``codistill peers``: who publishes in a store, and how far they are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import tyro

from codistill.cli import output, parsing
from codistill.cli.existing_store import open_existing
from codistill.errors import CodistillError, SnapshotError, StoreError
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.inspection import read_told
from codistill.snapshots.info import SnapshotInfo
from codistill.snapshots.keys import is_peer_name
from codistill.snapshots.status import Status
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
    age_snapshots: int | None = None
    """By how many snapshots the running peer that is furthest behind it is; None if nobody reads it."""
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


def peers(store: StoreWord, /, *, best: bool = False, json: bool = False) -> None:
    """List the peers that publish in a store, by their newest snapshots.

    Age is counted in snapshots here: how far behind the newest the running peer is that learns from it and is
    furthest behind, by what it tells of itself. Ages in steps are in each peer's own reports.

    Args:
        store: The folder that the peers share; `codistill train` keeps it in OUT/ARM/seed-N/exchange.
        best: Only the peer with the lowest task loss, of those with a newest snapshot that can be read and
            says one. `codistill doctor` verifies the weights themselves.
        json: Print JSON: a list, of one peer with `--best`.
    """
    opened = open_existing(store)
    lines = list_peers(opened)
    if best:
        lines = [_find_best(lines, opened)]
    if json:
        output.print_json([asdict(line) for line in lines])
        return
    sides = {"peer": "left", "state": "left"}
    headings = ("peer", "incarnation", "sequence", "step", "samples", "age", "bytes", "task loss", "state")
    output.print_table(
        {name: sides.get(name, "right") for name in headings}, [_cells(line) for line in lines]
    )
    for line in lines:
        if line.problem is not None:
            output.print_text(f"{line.peer}: {line.problem}")


def list_peers(store: Store) -> list[PeerLine]:
    """Return a line for every peer of a run, sorted by name.

    Raises:
        StoreError: If the store cannot be listed.
    """
    names = [name for name in store.list_names("", limit=MOST_NAMES) if is_peer_name(name)]
    statuses: dict[str, Status] = {}
    problems: dict[str, CodistillError] = {}
    for name in names:
        try:
            status = read_told(store, name)
        except (SnapshotError, StoreError) as e:
            problems[name] = e
        else:
            if status is not None:
                statuses[name] = status
    return [_line(store, name, statuses, problems.get(name)) for name in names]


def _line(
    store: Store, peer: str, statuses: Mapping[str, Status], problem: CodistillError | None
) -> PeerLine:
    state = statuses[peer].state if peer in statuses else None
    try:
        newest = _newest(store, peer)
    except (SnapshotError, StoreError) as e:
        return PeerLine(peer=peer, state=state, problem=str(e))
    line = PeerLine(peer=peer, state=state, problem=None if problem is None else str(problem))
    if newest is None:
        return line
    return replace(
        line,
        incarnation=newest.incarnation,
        sequence=newest.sequence,
        step=newest.step,
        samples=newest.samples,
        age_snapshots=_age(newest, statuses.values()),
        size_bytes=newest.size_bytes,
        task_loss=newest.task_loss,
    )


def _newest(store: Store, peer: str) -> SnapshotInfo | None:
    fetcher = Fetcher(store, run_id=None, max_bytes=None)
    pointer = fetcher.pointer(peer)
    if pointer is None:
        return None
    return fetcher.follow(pointer, lambda manifest, _: SnapshotInfo.from_manifest(manifest))


def _age(newest: SnapshotInfo, statuses: Iterable[Status]) -> int | None:
    read = [
        status.reading[newest.peer]
        for status in statuses
        if status.state == "running" and newest.peer in status.reading
    ]
    # Of a snapshot of an earlier life it is only known that all of this life came after it.
    ages = [
        newest.sequence - (sequence if incarnation == newest.incarnation else -1)
        for incarnation, sequence in read
    ]
    return max(0, *ages) if ages else None


def _find_best(lines: Sequence[PeerLine], store: Store) -> PeerLine:
    told = [line for line in lines if line.task_loss is not None]
    if not told:
        raise SnapshotError(
            f"No peer at {store.describe()} has published a snapshot with a task loss. Tell it to "
            "Codistiller.step(task_loss=...), or name a peer yourself."
        )
    return min(told, key=lambda line: (line.task_loss, line.peer))


def _cells(line: PeerLine) -> tuple[str, ...]:
    numbers = (
        line.incarnation,
        line.sequence,
        line.step,
        line.samples,
        line.age_snapshots,
        line.size_bytes,
    )
    return (
        line.peer,
        *("-" if number is None else f"{number:,}" for number in numbers),
        "-" if line.task_loss is None else f"{line.task_loss:.4f}",
        "unreadable" if line.problem is not None else line.state or "-",
    )
