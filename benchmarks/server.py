"""What a prediction server answers in a second, with and without merging what waits.

    python benchmarks/server.py [--students 8] [--rounds 3] [--json result.json]

`codistill serve` runs in a process of its own, on this machine; students are threads of this one, each of
which asks as fast as it is answered. Both servers are up all the time; rounds alternate between them, so that
what disturbs the machine disturbs both. A latency is what a student waits for: writing the question, the way
there, the forward, the way back, reading the answer.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from codistill import CheckpointExchange, Codistiller, ServedExchange
from codistill.exchange.base import Progress
from codistill.lab.provenance import machine, versions

OUTPUTS = 10
MODELS = {
    # Inputs of a sample, and the model: many small questions, and few that cost something.
    "small": (64, lambda: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, OUTPUTS))),
    "large": (
        784,
        lambda: nn.Sequential(
            nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, OUTPUTS)
        ),
    ),
}


def build_small(_: Any) -> nn.Module:
    """Return a new small model, for the server."""
    return MODELS["small"][1]()


def build_large(_: Any) -> nn.Module:
    """Return a new large model, for the server."""
    return MODELS["large"][1]()


def publish(store: str, name: str) -> None:
    """Let one peer publish a model."""
    model = MODELS[name][1]()
    with Codistiller(model, CheckpointExchange(store, peer="b", interval_steps=1)) as peer:
        inputs = torch.zeros(2, MODELS[name][0])
        peer.loss(model(inputs), inputs)
        peer.step()


def start(stack: ExitStack, store: str, name: str, *more: str) -> str:
    """Start a server; return its URL."""
    words = ["serve", store, "--model", f"server:build_{name}", "--port", "0", "--json", *more]
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "codistill", *words],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    assert process.stdout is not None
    stack.callback(process.stdout.close)
    return json.loads("".join(process.stdout.readline() for _ in range(3)))["url"]


def study(url: str, name: str, rows: int, students: int, seconds: float) -> tuple[float, list[float]]:
    """Let students ask; return answers a second and what each waited, in seconds."""
    waits: list[list[float]] = [[] for _ in range(students)]
    barrier = threading.Barrier(students + 1)
    end = threading.Event()

    def ask(index: int) -> None:
        exchange = ServedExchange(url, timeout_s=60.0)
        exchange.bind(nn.Linear(1, 1), None)
        exchange.begin(Progress())
        inputs, logits = torch.randn(rows, MODELS[name][0]), torch.zeros(rows, OUTPUTS)
        while not exchange.predict(inputs, logits).peers:
            pass
        barrier.wait()
        while not end.is_set():
            begin_s = time.perf_counter()
            assert exchange.predict(inputs, logits).peers
            waits[index].append(time.perf_counter() - begin_s)
        exchange.close(Progress(), publish=False)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(students)]
    for thread in threads:
        thread.start()
    barrier.wait()
    begin_s = time.perf_counter()
    time.sleep(seconds)
    end.set()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - begin_s
    all_waits = [wait for student in waits for wait in student]
    return len(all_waits) / took_s, all_waits


def measure(name: str, rows: int, students: int, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return answers a second, medians over rounds, and latencies in milliseconds, both ways."""
    rates: dict[str, list[float]] = {"merged": [], "apart": []}
    waits: dict[str, list[float]] = {"merged": [], "apart": []}
    with ExitStack() as stack:
        store = stack.enter_context(tempfile.TemporaryDirectory())
        publish(store, name)
        urls = {"merged": start(stack, store, name), "apart": start(stack, store, name, "--no-merging")}
        for round_ in range(rounds):
            for way in sorted(urls, reverse=round_ % 2 == 1):
                rate, waited = study(urls[way], name, rows, students, seconds)
                rates[way].append(rate)
                waits[way] += waited
    return {
        way: {
            "answers_per_s": statistics.median(rates[way]),
            "median_ms": 1e3 * statistics.median(waits[way]),
            "p95_ms": 1e3 * statistics.quantiles(waits[way], n=20)[-1],
        }
        for way in rates
    }


def main() -> int:
    """Measure all, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=8)
    parser.add_argument("--rows", type=int, default=32, help="samples of a question")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round and way")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    measured = {}
    for name in MODELS:
        for students in (1, arguments.students):
            result = measure(name, arguments.rows, students, arguments.rounds, arguments.seconds)
            measured[f"{name}, {students} students"] = result
            for way, figures in result.items():
                numbers = "  ".join(f"{what} {value:8.1f}" for what, value in figures.items())
                print(f"{name:6} {students:2} students {way:7} {numbers}", flush=True)
    if arguments.json is not None:
        document = {
            "measured": measured,
            "rows": arguments.rows,
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "load_before": load_before,
            "load_after": os.getloadavg()[0],
            "threads": torch.get_num_threads(),
            "machine": machine(),
            "versions": versions(),
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
