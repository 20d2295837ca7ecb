"""``codistill doctor``: whether all that lies in a store is whole, and what of it nobody needs."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro

from codistill.cli import output, parsing
from codistill.cli.existing_store import open_existing
from codistill.errors import SnapshotFormatError
from codistill.exchange.checkpoint import pruning
from codistill.exchange.checkpoint.inspection import Orphan, PeerInspection, RunInspection, inspect_run
from codistill.exchange.checkpoint.pruning import Pruned
from codistill.snapshots.signing import SigningKey
from codistill.stores import Store, open_store

ALL_IS_WELL, HAS_PROBLEMS = 0, 1

StoreWord = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="STORE")]]


def run(arguments: Sequence[str]) -> int:
    """Run the verb; return its exit code."""
    return parsing.call(doctor, arguments, verb="doctor")


def doctor(
    store: StoreWord,
    /,
    *,
    prune: bool = False,
    signing_key_file: Path | None = None,
    json: bool = False,
) -> int:
    """Read all that lies in a store, verify every digest, and say what is wrong.

    Exit code 0: all is well. 1: there are problems. Orphans are not: what a peer was killed while it wrote,
    and what nothing leads to any more. They only take room.

    Args:
        store: The folder that the peers share; `codistill train` keeps it in OUT/ARM/seed-N/exchange.
        prune: Delete the orphans, except those of a peer that lives, which takes 15 s to tell, and those that
            a peer says it is reading.
        signing_key_file: The key that the peers sign with; without it signatures are not checked.
        json: Print JSON.
    """
    signing_key = None if signing_key_file is None else SigningKey.from_file(signing_key_file)
    inspection = inspect_run(_open(store), signing_key=signing_key)
    pruned = pruning.prune(open_store(store), inspection, clock=time) if prune else None
    if json:
        output.print_json(_to_document(inspection, pruned))
    else:
        _print(inspection, pruned)
    return HAS_PROBLEMS if inspection.problems else ALL_IS_WELL


def _open(store: str) -> Store:
    try:
        return open_existing(store)
    except SnapshotFormatError:
        # The first of the problems that will be shown.
        return open_store(store, is_read_only=True)


def _to_document(inspection: RunInspection, pruned: Pruned | None) -> dict[str, Any]:
    return {
        "run_id": inspection.run_id,
        "peers": [
            {
                "peer": peer.peer,
                "incarnation": None if peer.pointer is None else peer.pointer.incarnation,
                "sequence": None if peer.pointer is None else peer.pointer.sequence,
                "step": peer.step,
                "state": None if peer.status is None else peer.status.state,
                "lives": peer.lives,
                "snapshots": peer.snapshots,
                "size_bytes": peer.size_bytes,
                "orphan_bytes": _orphan_bytes(inspection, peer),
            }
            for peer in inspection.peers
        ],
        "size_bytes": sum(peer.size_bytes for peer in inspection.peers),
        "orphans": [_describe(orphan) for orphan in inspection.orphans],
        "problems": [asdict(problem) for problem in inspection.problems],
        "pruned": None
        if pruned is None
        else {
            "deleted": [_describe(orphan) for orphan in pruned.deleted],
            "spared": [{**_describe(spared.orphan), "why": spared.why} for spared in pruned.spared],
        },
    }


def _describe(orphan: Orphan) -> dict[str, Any]:
    return {
        "peer": orphan.peer,
        "key": orphan.key,
        "values": list(orphan.values),
        "size_bytes": orphan.size_bytes,
        "why": orphan.why,
    }


def _orphan_bytes(inspection: RunInspection, peer: PeerInspection) -> int:
    return sum(orphan.size_bytes for orphan in inspection.orphans if orphan.peer == peer.peer)


def _print(inspection: RunInspection, pruned: Pruned | None) -> None:
    sides = {"peer": "left", "state": "left"}
    headings = ("peer", "state", "lives", "snapshots", "step", "bytes", "of orphans")
    rows = [
        (
            peer.peer,
            "-" if peer.status is None else peer.status.state,
            f"{peer.lives:,}",
            f"{peer.snapshots:,}",
            "-" if peer.step is None else f"{peer.step:,}",
            f"{peer.size_bytes:,}",
            f"{_orphan_bytes(inspection, peer):,}",
        )
        for peer in inspection.peers
    ]
    output.print_table({heading: sides.get(heading, "right") for heading in headings}, rows)
    total = sum(peer.size_bytes for peer in inspection.peers)
    count = len(inspection.problems)
    output.print_text(f"In all: {total:,} bytes, {count} problem{'' if count == 1 else 's'}.")
    for problem in inspection.problems:
        output.print_text(f"{problem.key}: {problem.what} {problem.next_step}")
    if pruned is None:
        for orphan in inspection.orphans:
            output.print_text(f"orphan {orphan.key}: {orphan.size_bytes:,} bytes; {orphan.why}.")
        return
    for orphan in pruned.deleted:
        output.print_text(f"deleted {orphan.key}: {orphan.size_bytes:,} bytes; {orphan.why}.")
    for spared in pruned.spared:
        output.print_text(f"spared {spared.orphan.key}: {spared.why}.")
