"""What the exchange of snapshots costs a training job, and how near it comes to copying, hashing and writing.

    python benchmarks/exchange.py [--out result.json]

Three loops train the same MLP of 25 million parameters (100 MB) on one fixed batch, in turn for an interval
each, in an order that changes from round to round:

    floor        training, and one forward of a second model: what a teacher costs at least
    naive        the same with torch.save of the student and torch.load of the other's file in the loop
    codistill    a peer whose teacher gets a new snapshot at every interval

In every interval of `codistill` one snapshot is published and one is fetched, both in the background.
Counted against training is the time inside ``loss()`` and ``step()`` outside the teacher's forward; shown
beside it is what the whole loop loses to the work in the background, on these cores.

Then, in the same process and in turn: a publish against memcpy + SHA-256 + write of as many bytes, and a
fetch (until the teacher holds the weights) against read + SHA-256 + memcpy; and the memory that each takes at
its peak, beside teacher and standby. Exits 1 if a limit is missed.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codistill import CheckpointExchange, Codistiller
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.lives import open_run
from codistill.exchange.checkpoint.publisher import Publisher
from codistill.parallel.weights import copy_into, named_tensors
from codistill.snapshots.codec import first_nan
from codistill.snapshots.keys import pointer_key
from codistill.snapshots.staging import Staging
from codistill.stores import DirectoryStore

MOST_INSIDE = 0.01
LEAST_SPEED = 0.7
MOST_MEMORY = 3.0
CHUNK_BYTES = 8 * 2**20
CLASSES = 10


def new_model(seed: int, width: int) -> nn.Module:
    """Return an MLP; of 25 million parameters at width 2880."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES),
    )  # fmt: skip


class OtherPeer:
    """A peer that has published beforehand, and shows one snapshot after another."""

    def __init__(self, store: DirectoryStore, width: int, count: int) -> None:
        life = Life(run_id=open_run(store), peer="b", incarnation=0, interval_steps=1, metadata={})
        publisher = Publisher(store, life)
        staging = Staging(named_tensors(new_model(0, width)))
        self._store = store
        self._pointers = []
        for seed in range(count):
            staging.fill(named_tensors(new_model(seed + 1, width)))
            publisher.publish(staging.encode(), Progress(step=seed, samples=10**9 + seed), finished=False)
            self._pointers.append(store.read(pointer_key("b"), max_bytes=4096))
        self._shown = 0
        self.show_next()

    def show_next(self) -> None:
        """Point to the next snapshot."""
        self._store.write(pointer_key("b"), self._pointers[self._shown])
        self._shown += 1


class Loop:
    """A student with its optimizer."""

    def __init__(self, width: int) -> None:
        self.model = new_model(0, width)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)

    def update(self, loss: Tensor) -> None:
        """Make an optimizer step."""
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Floor(Loop):
    """Training beside an idle teacher."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.teacher = new_model(1, width).eval().requires_grad_(False)

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        """Train on a batch."""
        with torch.no_grad():
            soft = self.teacher(inputs).log_softmax(1)
        logits = self.model(inputs)
        kl = F.kl_div(logits.log_softmax(1), soft, reduction="batchmean", log_target=True)
        self.update(F.cross_entropy(logits, targets) + kl)

    def exchange(self) -> None:
        """Do what is due in the middle of an interval."""


class Naive(Floor):
    """The same, saving and loading in the loop."""

    def __init__(self, width: int, folder: Path) -> None:
        super().__init__(width)
        self._own, self._others = folder / "own.pt", folder / "other.pt"
        torch.save(new_model(1, width).state_dict(), self._others)

    def exchange(self) -> None:
        """Save the own weights and load the other's."""
        torch.save(self.model.state_dict(), self._own)
        self.teacher.load_state_dict(torch.load(self._others, weights_only=True))


class Codistilled(Loop):
    """A peer, with the time that it spends in codistill, its teacher's forward apart."""

    def __init__(self, width: int, store: DirectoryStore, other: OtherPeer, interval_steps: int) -> None:
        super().__init__(width)
        self._other = other
        self.codistiller = Codistiller(
            self.model, CheckpointExchange(store, peer="a", interval_steps=interval_steps)
        )
        self.inside_s = 0.0
        self.fetched = 0
        self._forward_s = 0.0
        self._is_watched = False

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        """Train on a batch."""
        logits = self.model(inputs)
        task_loss = F.cross_entropy(logits, targets)
        begin_s = time.perf_counter()
        term = self.codistiller.loss(logits, inputs)
        self.inside_s += time.perf_counter() - begin_s
        self.update(task_loss + term)
        begin_s = time.perf_counter()
        report = self.codistiller.step(task_loss=task_loss.detach())
        self.inside_s += time.perf_counter() - begin_s
        self.fetched += len(report.fetched)
        if not self._is_watched:
            self._watch_teacher()

    def exchange(self) -> None:
        """Let the other peer have published."""
        self._other.show_next()

    def _watch_teacher(self) -> None:
        """Take the teacher's forward out of what counts."""
        exchange: Any = self.codistiller._exchange
        (teacher,) = exchange._life.classroom._teachers.values()
        begins: list[float] = []
        teacher.module.register_forward_pre_hook(lambda *_: begins.append(time.perf_counter()))

        def end(*_: object) -> None:
            self.inside_s -= time.perf_counter() - begins.pop()

        teacher.module.register_forward_hook(end)
        self._is_watched = True


def train(width: int, batch_size: int, interval_steps: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Return what the exchange costs while training."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(batch_size, width, generator=generator)
    targets = torch.randint(CLASSES, (batch_size,), generator=generator)
    store = DirectoryStore(folder / "store")
    other = OtherPeer(store, width, rounds + 2)
    codistilled = Codistilled(width, store, other, interval_steps)
    loops: dict[str, Any] = {"floor": Floor(width), "naive": Naive(width, folder), "codistill": codistilled}
    # Half an interval of warm-up, so that what an interval's end sets off happens within a turn.
    for loop in loops.values():
        for _ in range(interval_steps // 2):
            loop.step(inputs, targets)
    codistilled.inside_s, codistilled.fetched = 0.0, 0
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    names = list(loops)
    rng = np.random.default_rng(0)
    for number in range(rounds):
        rng.shuffle(names)
        for name in names:
            loop = loops[name]
            begin_s = time.perf_counter()
            for step in range(interval_steps):
                if step == interval_steps // 2 - 1:
                    loop.exchange()
                loop.step(inputs, targets)
            seconds[name].append(time.perf_counter() - begin_s)
        print(f"round {number + 1} of {rounds}, load {os.getloadavg()[0]:.2f}", file=sys.stderr)
    codistilled.codistiller.close(publish=False)
    floor = np.array(seconds["floor"])
    return {
        "rounds": rounds,
        "fetched": codistilled.fetched,
        "interval_steps": interval_steps,
        "step_s": float(np.median(floor)) / interval_steps,
        "inside_share": codistilled.inside_s / sum(seconds["codistill"]),
        "time_over_floor": {
            name: _spread((np.array(values) / floor).tolist()) for name, values in seconds.items()
        },
    }


def copy_and_write(width: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Return the speed of publish and fetch beside the least that they could take."""
    store = DirectoryStore(folder / "speed")
    run_id = open_run(store)
    life = Life(run_id=run_id, peer="a", incarnation=0, interval_steps=1, metadata={})
    publisher = Publisher(store, life, keep=1)
    fetcher = Fetcher(store, run_id=run_id, max_bytes=None)
    model, teacher = new_model(0, width), new_model(1, width)
    tensors = named_tensors(model)
    staging = Staging(tensors)
    size_bytes = sum(tensor.nbytes for tensor in tensors.values())
    flat = np.zeros(size_bytes, dtype=np.uint8)
    room = np.ones(size_bytes, dtype=np.uint8)
    file = folder / "plain"

    def publish() -> None:
        staging.fill(named_tensors(model))
        publisher.publish(staging.encode(), Progress(), finished=False)

    def publish_at_least() -> None:
        np.copyto(room, flat)
        _hash(room)
        file.unlink(missing_ok=True)
        room.tofile(file)

    def fetch() -> None:
        pointer = fetcher.pointer("a")
        assert pointer is not None
        manifest = fetcher.manifest(pointer.manifest)
        arrival = fetcher.fetch(manifest, pointer.manifest, first_seen_step=0)
        assert first_nan(arrival.tensors) is None
        copy_into(teacher, arrival.tensors)

    def fetch_at_least() -> None:
        content = np.fromfile(file, dtype=np.uint8)
        _hash(content)
        np.copyto(room, content)

    result: dict[str, Any] = {"size_bytes": size_bytes}
    for name, ours, least in (("publish", publish, publish_at_least), ("fetch", fetch, fetch_at_least)):
        times: dict[str, list[float]] = {"ours": [], "least": []}
        for number in range(rounds + 1):
            for key, job in (("ours", ours), ("least", least))[:: 1 if number % 2 else -1]:
                begin_s = time.perf_counter()
                job()
                if number:
                    times[key].append(time.perf_counter() - begin_s)
        speeds = [least_s / our_s for our_s, least_s in zip(times["ours"], times["least"], strict=True)]
        with _peak_memory() as peak:
            ours()
        # What is always there is apart: the standby of a fetch.
        standby = size_bytes if name == "fetch" else 0
        result[name] = {
            "s": statistics.median(times["ours"]),
            "least_s": statistics.median(times["least"]),
            "speed": _spread(speeds),
            "memory_over_snapshot": (peak[0] - standby) / size_bytes,
        }
    # The staging buffer of a publish was there before.
    result["publish"]["memory_over_snapshot"] += staging.size_bytes / size_bytes
    return result


def _hash(content: np.ndarray) -> None:
    for start in range(0, len(content), CHUNK_BYTES):
        hashlib.sha256(content[start : start + CHUNK_BYTES]).hexdigest()


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Measure by how many bytes resident memory grows at most within the block (Linux)."""
    status = Path("/proc/self/status")

    def read(field: str) -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024

    peak = [0]
    Path("/proc/self/clear_refs").write_text("5")
    before = read("VmRSS")
    yield peak
    peak[0] = max(0, read("VmHWM") - before)


def _spread(values: list[float]) -> dict[str, float]:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(median), "quartile_1": float(low), "quartile_3": float(high)}


def judge(result: dict[str, Any]) -> list[str]:
    """Return which limits are missed."""
    inside = result["training"]["inside_share"]
    missed = [f"{inside:.2%} of training is spent in codistill, over {MOST_INSIDE:.0%}"] * (
        inside > MOST_INSIDE
    )
    fetched, rounds = result["training"]["fetched"], result["training"]["rounds"]
    missed += [f"only {fetched} of {rounds} snapshots were fetched within their turn"] * (fetched < rounds)
    for name in ("publish", "fetch"):
        speed, memory = result[name]["speed"]["median"], result[name]["memory_over_snapshot"]
        missed += [f"{name} has {speed:.2f} of the speed, under {LEAST_SPEED}"] * (speed < LEAST_SPEED)
        missed += [f"{name} takes {memory:.2f} snapshots, over {MOST_MEMORY}"] * (memory > MOST_MEMORY)
    return missed


def main() -> int:
    """Measure, print, and tell whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--width", type=int, default=2880, help="2880 makes 25 million parameters")
    parser.add_argument("--batch-size", type=int, default=192)
    parser.add_argument("--interval-steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path, help="also write the result here, as JSON")
    parser.add_argument("--threads", type=int, default=1, help="of torch, for training")
    arguments = parser.parse_args()
    # With as many as there are cores, those of two libraries wait for one another by spinning: an operation
    # on a handful of numbers then takes milliseconds, here as in plain training.
    torch.set_num_threads(arguments.threads)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        speeds = copy_and_write(arguments.width, max(arguments.rounds, 3) * 3, Path(folder))
        training = train(
            arguments.width, arguments.batch_size, arguments.interval_steps, arguments.rounds, Path(folder)
        )
    result = {
        "training": training,
        **speeds,
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    print(f"step {training['step_s'] * 1000:.0f} ms, interval {training['interval_steps']} steps")
    print(f"inside loss() and step(), teacher's forward apart: {training['inside_share']:.2%} of training")
    for name in ("naive", "codistill"):
        over = training["time_over_floor"][name]
        print(
            f"{name:10} {over['median']:.3f} x floor  (quartiles {over['quartile_1']:.3f} to "
            f"{over['quartile_3']:.3f}, {training['rounds']} intervals)"
        )
    for name in ("publish", "fetch"):
        figures = result[name]
        print(
            f"{name:10} {figures['s'] * 1000:.0f} ms against {figures['least_s'] * 1000:.0f} ms: "
            f"{figures['speed']['median']:.2f} of the speed; "
            f"{figures['memory_over_snapshot']:.2f} snapshots of memory"
        )
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    missed = judge(result)
    for limit in missed:
        print(limit, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
