"""Killing a publisher at any instruction, and looking at what it leaves."""

import os
import random
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, Final

import torch
from torch import nn

import codistill
from codistill import CheckpointExchange, load_snapshot
from codistill.errors import CodistillError, CodistillWarning
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.inspection import inspect_run
from codistill.exchange.checkpoint.membership import Membership
from codistill.exchange.checkpoint.pruning import prune
from codistill.exchange.checkpoint.publisher import SnapshotOptions
from codistill.snapshots.keys import parse_manifest_key, parse_snapshot_name, snapshots_prefix
from codistill.stores.directory import DirectoryStore
from codistill.testing import FakeClock, InlineBackground
from faults.processes import kill, pipe, processes

_SOURCE: Final = str(Path(codistill.__file__).parent)
_WRITING: Final = (__file__, f"{_SOURCE}/stores/directory.py", f"{_SOURCE}/exchange/checkpoint/publisher.py")
_PIECE_BYTES: Final = 4096
VALUES: Final = 64 * 1024
_BASE: Final = 1000
_REPORT_S: Final = 60.0
# Of where publishers are killed by the line, how often: what is being written is the more interesting.
_LINES: Final = {"begin": 2, "step": 3, "write": 5}
_COME_BACK_EVERY: Final = 10
_MANY: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """When a publisher is to be killed."""

    at: str
    """"begin": while it claims its life; "step": while it does a step; "write": in a line of it that
    writes; "any time": by a signal from outside."""
    steps_before: int
    """Steps that it does first."""
    lines: int | None
    """How many lines of codistill it executes then; None to count them, and live."""


@dataclass(slots=True, kw_only=True)
class Kills:
    """What a number of kills came to."""

    tries: int = 0
    """Publishers killed."""
    left: dict[str, int] = field(default_factory=dict)
    """How often what was left of the snapshot under way."""
    torn: list[str] = field(default_factory=list)
    """What readers found that was no whole snapshot, or not the newest one that was certainly there."""
    not_removed: int = 0
    """Orphans that were still there when the peer had come back and published three times."""
    not_pruned: int = 0
    """Orphans that were still there after ``prune``."""
    hidden_files: int = 0
    """Temporary files of the folder store that are left at the end, after ``prune``."""


class StoreInPieces(DirectoryStore):
    """A folder whose values are written a few KiB at a time, so that a kill may come in between."""

    def _open_beside(self, key: str) -> tuple[Path, BinaryIO]:
        path, file = super()._open_beside(key)
        return path, _InPieces(file)  # type: ignore[return-value]


class _InPieces:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, content: bytes | memoryview) -> None:
        view = memoryview(content).cast("B")
        for start in range(0, len(view), _PIECE_BYTES):
            self._file.write(view[start : start + _PIECE_BYTES])
            self._file.flush()

    def __enter__(self) -> "_InPieces":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Reaper:
    """Kills its own process at the n-th line that is executed of codistill, or counts the lines."""

    def __init__(self, fate: Fate) -> None:
        self._lines = fate.lines
        self._files = _WRITING if fate.at == "write" else (_SOURCE, __file__)
        self.count = 0

    def begin(self) -> None:
        """Count from here."""
        sys.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self._files):
            return None
        if event == "line":
            self.count += 1
            if self.count == self._lines:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._trace


def publish_until_killed(folder: Path, base: int, fate: Fate, connection: Connection) -> None:
    """Publish again and again, every value of a snapshot being ``base`` and its step, in a process.

    Tells the key of every snapshot that is there for certain.

    Args:
        folder: The run's.
        base: Of this life.
        fate: When to die.
        connection: To whoever is looking.
    """
    torch.set_num_threads(1)
    # That its peer publishes nothing, while this one does thousands of steps, is as it is meant to be.
    warnings.simplefilter("ignore")
    model = nn.Linear(VALUES, 1, bias=False)
    exchange = CheckpointExchange(
        StoreInPieces(folder),
        peer="a",
        interval_steps=1,
        snapshots=SnapshotOptions(metadata={"base": base}),
        membership=Membership(rejoin=True),
    )
    exchange.clock = FakeClock()
    if fate.at != "any time":
        exchange.background = InlineBackground()
    exchange.bind(model, None)
    reaper = Reaper(fate)
    if fate.at == "begin":
        reaper.begin()
    exchange.begin(Progress())
    if fate.at == "begin":
        sys.settrace(None)
        connection.send(reaper.count)
    told = None
    step = 0
    # Without an end, but that of its parent's patience.
    while True:
        step += 1
        if step > fate.steps_before and fate.at in ("step", "write"):
            reaper.begin()
        with torch.no_grad():
            model.weight.fill_(base + step)
        exchange.step(Progress(step=step, samples=step))
        previous = exchange.state_dict()["previous"]
        if previous is not None and previous != told:
            connection.send(previous["key"])
            told = previous
        if step > fate.steps_before and fate.at != "any time":
            sys.settrace(None)
            connection.send(reaper.count)
            connection.recv()


class Look:
    """A reader that has been there all the time, and one that comes anew at each look."""

    def __init__(self, folder: Path) -> None:
        self._store = DirectoryStore(folder)
        self._fetcher = Fetcher(self._store, run_id=None, max_bytes=None)
        self._exchange = CheckpointExchange(self._store, peer="b", interval_steps=1)
        self._exchange.clock = FakeClock()
        self._exchange.background = InlineBackground()
        self._exchange.bind(nn.Linear(VALUES, 1, bias=False), None)
        self._exchange.begin(Progress())
        self._step = 0
        self._newest = (-1, -1)

    def check_whole(self, promised: str | None) -> None:
        """Check that both find one whole snapshot, no older than one that was there before.

        Args:
            promised: The key of a manifest that is certainly there; None if none is.
        """
        self._step += 1
        self._exchange.step(Progress(step=self._step))
        if promised is not None:
            self._newest = max(self._newest, parse_manifest_key(promised)[1:])
        if self._newest == (-1, -1):
            return
        state, info = load_snapshot(self._store, "a")
        order = (info.incarnation, info.sequence)
        expected = info.metadata["base"] + info.step
        _check(order >= self._newest, f"{order} is older than {self._newest}")
        self._newest = order
        _check(bool((state["weight"] == expected).all()), f"{order} is torn")
        teacher = self._exchange.teachers["a"]
        _check((teacher.incarnation, teacher.sequence) == order, f"{order} was not taken")
        (prediction,) = self._exchange.predict(torch.eye(1, VALUES), None).peers
        _check(float(prediction.target.logits) == expected, f"{order} was not taken whole")
        _check(inspect_run(self._store).problems == (), f"there is something wrong with {order}")

    def what_is_left(self) -> str:
        """Return how far the snapshot under way had come."""
        pointer = self._fetcher.pointer("a")
        newest = (-1, -1) if pointer is None else pointer.order
        for name in self._store.list_names(snapshots_prefix("a"), limit=_MANY):
            order = parse_snapshot_name(name)
            if order is not None and order > newest:
                values = self._store.list_names(f"{snapshots_prefix('a')}/{name}", limit=_MANY)
                if "manifest.json" in values:
                    return "manifest without pointer"
                return "shard without manifest" if values else "part of a shard"
        return "nothing"

    def count_orphans(self) -> int:
        """Return how much there is that nobody needs."""
        return len(inspect_run(self._store).orphans)

    def prune(self) -> int:
        """Delete what nobody needs; return how much of that is still there."""
        prune(self._store, inspect_run(self._store), clock=FakeClock())
        return self.count_orphans()

    def close(self) -> None:
        """Take part no more."""
        self._exchange.close(Progress(step=self._step), publish=False)


class TornError(Exception):
    """A reader has found something else than a whole snapshot."""


def _check(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise TornError(otherwise)


def run(folder: Path, *, count: int, seed: int, with_signals: bool) -> Kills:
    """Kill a publisher again and again, and look at what is there each time.

    **Blocks**: some 50 ms a kill.

    Args:
        folder: The run's, empty.
        count: How often.
        seed: Of when.
        with_signals: Whether every second one is killed from outside, at an instant that differs from run to
            run; else each dies at a line that the seed decides.
    """
    rng = random.Random(seed)
    kills = Kills()
    left: Counter[str] = Counter()
    look = Look(folder)
    with processes() as start:
        lines = {at: _live(start, folder, at) for at in _LINES}
        for number in range(count):
            if with_signals and number % 2:
                fate = Fate(at="any time", steps_before=1, lines=None)
            else:
                at = rng.choices(list(_LINES), list(_LINES.values()))[0]
                fate = Fate(at=at, steps_before=rng.randrange(3), lines=1 + rng.randrange(lines[at]))
            promised = _kill_one(start, folder, (number + 1) * _BASE, fate, rng)
            kills.tries += 1
            left[what := look.what_is_left()] += 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    look.check_whole(promised)
            except (TornError, CodistillError, CodistillWarning) as error:
                kills.torn.append(f"kill {number} ({fate}, {what} left): {error}")
            if number % _COME_BACK_EVERY == _COME_BACK_EVERY - 2:
                _live(start, folder, "step")
                kills.not_removed += look.count_orphans()
    kills.left = dict(sorted(left.items()))
    kills.not_pruned = look.prune()
    look.close()
    kills.hidden_files = sum(path.name.startswith(".") for path in folder.rglob("*"))
    return kills


def _live(start: Callable[..., ForkServerProcess], folder: Path, at: str) -> int:
    """Let a publisher publish three times; return how many lines it executes where others are killed."""
    ours, theirs = pipe()
    process = start(publish_until_killed, folder, 0, Fate(at=at, steps_before=2, lines=None), theirs)
    theirs.close()
    try:
        while isinstance(told := _receive(ours), str):
            pass
        return told
    finally:
        kill(process)
        ours.close()


def _kill_one(
    start: Callable[..., ForkServerProcess], folder: Path, base: int, fate: Fate, rng: random.Random
) -> str | None:
    """Let a publisher live until its fate; return the key of its last snapshot that was certainly there."""
    ours, theirs = pipe()
    process = start(publish_until_killed, folder, base, fate, theirs)
    theirs.close()
    promised: str | None = None
    is_waiting = True
    try:
        while True:
            told = _receive(ours)
            if isinstance(told, str):
                promised = told
            if fate.at == "any time" and is_waiting:
                is_waiting = False
                time.sleep(rng.uniform(0.0, 0.1))
                process.kill()
            elif isinstance(told, int) and fate.at != "begin":
                # It had fewer lines to do than the one that was counted.
                break
    except EOFError:
        pass
    finally:
        kill(process)
        ours.close()
    return promised


def _receive(connection: Connection) -> str | int:
    if not connection.poll(_REPORT_S):
        raise TimeoutError(f"A publisher must say something within {_REPORT_S:g} s, got nothing.")
    said: str | int = connection.recv()
    return said
