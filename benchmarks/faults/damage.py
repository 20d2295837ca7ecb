"""What can happen to a run: each fault of the long run, and what is promised about it."""

import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from faults.fleet import PEERS, Fleet
from faults.flips import flip_bit
from faults.moods import MOODS
from faults.room import fill

_BACK_S: Final = 60.0
_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A fault that happens to a run from time to time."""

    name: str
    """What it is called in the results."""
    promise: str
    """What the others see, in the words of the promises."""
    share: int
    """How often, beside the others."""
    strike: Callable[[Fleet, random.Random], dict[str, Any]]
    """Does it, waits until it is over, and tells details."""
    hits_all: bool = False
    """Whether it hinders all peers at once, for a while, so that they have to find back."""


def kinds(fleet: Fleet) -> list[Kind]:
    """Return the faults that can be had here."""
    stays = "refused; the last good teacher stays"
    goes_on = "training goes on; one warning; it is tried again"
    listed = [
        Kind(
            name="killed, and back",
            promise="nothing waits; the others take it up again",
            share=4,
            strike=_kill,
        ),
        Kind(name="bit flipped", promise=stays, share=6, strike=_flip),
        Kind(name="file truncated", promise=stays, share=5, strike=_truncate),
        Kind(name="file deleted", promise=stays, share=5, strike=_delete),
        Kind(name="older pointer replayed", promise="a reader never goes back", share=4, strike=_replay),
        Kind(name="store away", promise=goes_on, share=2, strike=_go_away, hits_all=True),
        Kind(name="store empty", promise=goes_on, share=2, strike=_empty, hits_all=True),
    ]
    for mood in MOODS:
        listed.append(
            Kind(
                name=f"store {mood}", promise=goes_on, share=1, strike=partial(_be, mood=mood), hits_all=True
            )
        )
    if fleet.has_own_disk:
        listed.append(Kind(name="disk full", promise=goes_on, share=2, strike=_fill, hits_all=True))
    return listed


def _kill(fleet: Fleet, rng: random.Random) -> dict[str, Any]:
    """Kill a peer, start it again with its state, and wait until the others have its new snapshots.

    Now and then files are damaged while it is away, its own too. What it refuses to start on is deleted.
    """
    peer = rng.choice(fleet.alive)
    time.sleep(rng.uniform(0.0, 1.0))
    fleet.kill(peer)
    time.sleep(rng.uniform(0.0, 3.0))
    damage = [rng.choice((_flip, _truncate, _delete))(fleet, rng) for _ in range(rng.choice((0, 0, 1, 3)))]
    refused: list[str] = []
    life = fleet.start(peer)
    deadline_s = time.monotonic() + _BACK_S
    while time.monotonic() < deadline_s and not is_taken(fleet, life):
        if peer in fleet.bury():
            refused += [event["message"] for event in fleet.journal(life) if event["kind"] == "error"]
            (fleet.store / peer / "latest.json").unlink(missing_ok=True)
            life = fleet.start(peer)
        time.sleep(_POLL_S)
    return {
        "peer": peer,
        "life": life[1],
        "damage": damage,
        "refused": refused,
        "taken": is_taken(fleet, life),
    }


def is_taken(fleet: Fleet, life: tuple[str, int]) -> bool:
    """Return whether all others have taken a snapshot of a life."""
    incarnations = [event["incarnation"] for event in fleet.journal(life) if event["kind"] == "began"]
    others = [fleet.current(peer) for peer in fleet.alive if peer != life[0]]
    return bool(incarnations) and all(
        any(
            (event["kind"], event.get("peer"), event.get("incarnation")) == ("took", life[0], incarnations[0])
            for event in fleet.journal(other)
        )
        for other in others
    )


def _flip(fleet: Fleet, rng: random.Random) -> dict[str, Any]:
    path = _some_file(fleet, rng)
    if path is None or not (size := _size(path)):
        return {"missed": True}
    bit = rng.randrange(8 * size)
    try:
        flip_bit(path, bit)
    except (OSError, ValueError):
        return {"missed": True}
    return {"file": str(path.relative_to(fleet.store)), "bit": bit}


def _truncate(fleet: Fleet, rng: random.Random) -> dict[str, Any]:
    path = _some_file(fleet, rng)
    if path is None or not (size := _size(path)):
        return {"missed": True}
    length = rng.randrange(size)
    try:
        os.truncate(path, length)
    except OSError:
        return {"missed": True}
    return {"file": str(path.relative_to(fleet.store)), "to_bytes": length}


def _delete(fleet: Fleet, rng: random.Random) -> dict[str, Any]:
    path = _some_file(fleet, rng)
    if path is None:
        return {"missed": True}
    path.unlink(missing_ok=True)
    return {"file": str(path.relative_to(fleet.store))}


def _replay(fleet: Fleet, rng: random.Random) -> dict[str, Any]:
    """Put the pointer back that was there two or three intervals ago, as often as for a second."""
    peer = rng.choice(fleet.alive)
    pointer = fleet.store / peer / "latest.json"
    try:
        old = pointer.read_bytes()
        time.sleep(rng.uniform(2.0, 4.0))
        until_s = time.monotonic() + 1.5
        while time.monotonic() < until_s:
            _replace(pointer, old)
            time.sleep(0.05)
    except OSError:
        return {"missed": True}
    return {"peer": peer}


def _go_away(fleet: Fleet, rng: random.Random) -> dict[str, Any]:
    """Put a file where the folder is, in which nothing can be made."""
    seconds = rng.uniform(3.0, 8.0)
    take_away(fleet, for_s=seconds)
    return {"seconds": seconds}


def take_away(fleet: Fleet, *, for_s: float) -> None:
    """Let the store be out of reach for some seconds."""
    away = fleet.disk / "away"
    fleet.store.rename(away)
    while True:
        try:
            fleet.store.touch(exist_ok=False)
            break
        except OSError:  # somebody was faster and has made the folder anew
            shutil.rmtree(fleet.store, ignore_errors=True)
    time.sleep(for_s)
    fleet.store.unlink()
    _put_back(fleet, away)


def _empty(fleet: Fleet, rng: random.Random) -> dict[str, Any]:
    """Let the folder be another one for a while, as where a share is not mounted."""
    seconds = rng.uniform(3.0, 8.0)
    away = fleet.disk / "away"
    fleet.store.rename(away)
    time.sleep(seconds)
    _put_back(fleet, away)
    return {"seconds": seconds}


def _put_back(fleet: Fleet, away: Path) -> None:
    """Let the folder be the run's again, whatever peers have made in its place."""
    other = fleet.disk / "other"
    while True:
        try:
            away.rename(fleet.store)
            break
        except OSError:
            shutil.rmtree(other, ignore_errors=True)
            with suppress(OSError):
                fleet.store.rename(other)
    shutil.rmtree(other, ignore_errors=True)


def _be(fleet: Fleet, rng: random.Random, *, mood: str) -> dict[str, Any]:
    seconds = rng.uniform(3.0, 8.0)
    path = fleet.folder / "mood"
    _replace(path, mood.encode())
    time.sleep(seconds)
    path.unlink()
    return {"seconds": seconds}


def _fill(fleet: Fleet, rng: random.Random) -> dict[str, Any]:
    seconds = rng.uniform(3.0, 8.0)
    ballast = fleet.disk / "ballast"
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        # Peers that delete their old snapshots make room, which is taken from them.
        fill(ballast)
        time.sleep(0.05)
    ballast.unlink()
    return {"seconds": seconds}


def _some_file(fleet: Fleet, rng: random.Random) -> Path | None:
    """Return a file of a peer: its pointer or status, or a manifest or shard of a snapshot."""
    peer = fleet.store / rng.choice(PEERS)
    snapshots = sorted(peer.glob("snapshots/*/*"))
    newest = [path for path in snapshots if path.parent == snapshots[-1].parent] if snapshots else []
    # Old snapshots interest few.
    paths = [peer / "latest.json"] * 3 + [peer / "status.json"] + 3 * newest + snapshots
    path = rng.choice(paths)
    return path if path.exists() else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(f".new-{path.name}")
    new.write_bytes(content)
    new.replace(path)
