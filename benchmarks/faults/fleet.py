"""Three peers that train beside one another, each a process of its own."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

from faults.journal import JournalReader
from faults.moods import open_moody
from faults.processes import kill, processes
from faults.room import small_disk
from faults.trainer import Job, train

PEERS: Final = ("a", "b", "c")
IDLE_S: Final = 0.015
INTERVAL_STEPS: Final = 50
_DISK_BYTES: Final = 32 * 2**20
_END_S: Final = 120.0
_POLL_S: Final = 0.1


class Fleet:
    """The peers of one run, and all that they have written down.

    Attributes:
        disk: The folder that the run's folder lies in, on a disk of its own if that is allowed.
        store: The run's folder.
        has_own_disk: Whether the disk can be filled up without harm to others.
        started_s: When every life was started, by peer and number of the life.
        killed_s: When those were killed that were.
        exit_codes: Of all lives that have ended otherwise.
    """

    def __init__(self, folder: Path, start: Callable[..., ForkServerProcess], *, has_own_disk: bool) -> None:
        self.folder = folder
        self.disk = folder / "disk"
        self.store = self.disk / "run"
        self.has_own_disk = has_own_disk
        self.started_s: dict[tuple[str, int], float] = {}
        self.killed_s: dict[tuple[str, int], float] = {}
        self.exit_codes: dict[tuple[str, int], int] = {}
        self._start = start
        self._job = Job(
            store=self.store, folder=folder, peer="a", interval_steps=INTERVAL_STEPS, idle_s=IDLE_S
        )
        self._lives = dict.fromkeys(PEERS, 0)
        self._processes: dict[str, ForkServerProcess] = {}
        self._journals: dict[tuple[str, int], JournalReader] = {}

    def start(self, peer: str) -> tuple[str, int]:
        """Start the next life of a peer; return its name and number."""
        life = (peer, self._lives[peer])
        self._lives[peer] += 1
        self.started_s[life] = time.monotonic()
        self._processes[peer] = self._start(train, replace(self._job, peer=peer, life=life[1]), open_moody)
        return life

    def kill(self, peer: str) -> None:
        """Kill a peer."""
        life = (peer, self._lives[peer] - 1)
        process = self._processes.pop(peer)
        code = kill(process)
        if code == -9:
            self.killed_s[life] = time.monotonic()
        else:
            self.exit_codes[life] = code

    @property
    def alive(self) -> list[str]:
        """Who has been started and not killed."""
        return sorted(self._processes)

    def bury(self) -> list[str]:
        """Return who has ended without having been told to, and take note of how."""
        dead = [peer for peer, process in self._processes.items() if process.exitcode is not None]
        for peer in dead:
            code = self._processes.pop(peer).exitcode
            assert code is not None
            self.exit_codes[peer, self._lives[peer] - 1] = code
        return dead

    def wait(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until something is so; return whether it has become so in time."""
        deadline_s = time.monotonic() + timeout_s
        while not is_so():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_POLL_S)
        return True

    def stop(self) -> None:
        """Let all peers finish."""
        (self.folder / "stop").touch()
        self.wait(lambda: all(p.exitcode is not None for p in self._processes.values()), _END_S)
        for peer in self.alive:
            process = self._processes.pop(peer)
            process.join(0.0)
            self.exit_codes[peer, self._lives[peer] - 1] = (
                kill(process) if process.exitcode is None else process.exitcode
            )

    def journal(self, life: tuple[str, int]) -> list[dict[str, Any]]:
        """Return what a life has written down so far."""
        if life not in self._journals:
            path = replace(self._job, peer=life[0], life=life[1]).journal_path
            self._journals[life] = JournalReader(path)
        return self._journals[life].read()

    def has_begun(self, life: tuple[str, int]) -> bool:
        """Return whether a life trains."""
        return any(event["kind"] == "began" for event in self.journal(life))

    def output(self, life: tuple[str, int]) -> str:
        """Return what a life has printed."""
        path = replace(self._job, peer=life[0], life=life[1]).output_path
        return path.read_text() if path.exists() else ""

    def current(self, peer: str) -> tuple[str, int]:
        """Return the life that a peer is in."""
        return peer, self._lives[peer] - 1


@contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """Yield three peers that train; whatever is left of them at the end is killed.

    Args:
        folder: A new one.
    """
    folder.mkdir(parents=True)
    with small_disk(folder / "disk", size_bytes=_DISK_BYTES) as has_own_disk, processes() as start:
        peers = Fleet(folder, start, has_own_disk=has_own_disk)
        lives = [peers.start(peer) for peer in PEERS]
        if not peers.wait(lambda: all(map(peers.has_begun, lives)), _END_S):
            raise TimeoutError(f"Peers must begin within {_END_S:g} s, got {peers.exit_codes}.")
        yield peers
        peers.stop()
