import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.exchange import CheckpointExchange
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.lives import open_run
from codistill.exchange.checkpoint.publisher import Publisher
from codistill.parallel.weights import named_tensors
from codistill.snapshots.codec import encode
from codistill.stores.memory import MemoryStore
from codistill.testing.clock import FakeClock
from codistill.testing.faulty_store import FaultyStore
from codistill.testing.inline_background import InlineBackground


@pytest.fixture
def make_model():
    def make(value=0.0, *, classes=3):
        """Return a model whose weights all are ``value``."""
        model = nn.Linear(4, classes)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(value)
        return model

    return make


@pytest.fixture
def store():
    return FaultyStore(MemoryStore())


@pytest.fixture
def join(make_model):
    def join_run(
        store, peer, *, model=None, state=None, step=0, begin=True, clock=None, settings=None, **options
    ):
        """Return an exchange that has met its student and, unless told otherwise, has begun.

        What it does in the background it does at once, and it waits by a clock that only it moves.
        """
        exchange = CheckpointExchange(store, peer=peer, **{"interval_steps": 1, **options})
        exchange.clock = FakeClock() if clock is None else clock
        exchange.background = InlineBackground()
        # Weights of its own: peers that are identical are warned of.
        model = make_model(float(ord(peer))) if model is None else model
        exchange.bind(model, None, settings=settings)
        if state is not None:
            exchange.load_state_dict(state)
        if begin:
            exchange.begin(Progress(step=step))
        return exchange

    return join_run


@pytest.fixture
def publish(make_model):
    def publish_snapshots(
        store,
        peer,
        steps,
        *,
        model=None,
        incarnation=0,
        previous=None,
        finished=False,
        interval_steps=1,
        run_id=None,
        metadata=None,
    ):
        """Let ``peer`` publish at each of ``steps``, its weights being the step; return its publisher."""
        publisher = Publisher(
            store,
            Life(
                run_id=run_id or open_run(store),
                peer=peer,
                incarnation=incarnation,
                interval_steps=interval_steps,
                metadata=metadata or {},
            ),
            keep=None,
            previous=previous,
        )
        for step in steps:
            tensors = named_tensors(make_model(float(step)) if model is None else model)
            publisher.publish(
                encode(tensors),
                Progress(step=step, samples=10 * step),
                finished=finished and step == steps[-1],
            )
        return publisher

    return publish_snapshots


@pytest.fixture
def weight_of():
    def weight(exchange, peer):
        """Return the number that all weights of a teacher are."""
        predictions = exchange.predict(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), None)
        (logits,) = [p.target.logits for p in predictions.peers if p.peer == peer]
        # weight * 1 + bias, both the same number
        return float(logits[0, 0]) / 2

    return weight


class World:
    """Processes that run one program, and what they left: JSON, or tensors too."""

    timeout_s = 200

    def __init__(self, program, name, ranks, folder):
        self.name, self.folder = name, folder
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        self.processes = []
        for rank in range(ranks):
            with self.log(rank).open("wb") as log:
                command = [sys.executable, str(program), name, str(rank), str(ranks), str(folder)]
                self.processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        env=environment,
                    )
                )

    def log(self, rank):
        return self.folder / f"{self.name}-{rank}.log"

    def results(self):
        for process in self.processes:
            process.wait(self.timeout_s)
        logs = [self.log(rank).read_text() for rank in range(len(self.processes))]
        assert [process.returncode for process in self.processes] == [0] * len(logs), "\n".join(logs)
        return [self._result(rank) for rank in range(len(logs))]

    def _result(self, rank):
        tensors = self.folder / f"{self.name}-{rank}.pt"
        if tensors.exists():
            return torch.load(tensors)
        return json.loads(tensors.with_suffix(".json").read_text())

    def hear(self):
        """Wait until each has said something, or has ended."""
        for process in self.processes:
            process.stdout.readline()

    def go_on(self):
        for process in self.processes:
            process.stdin.write(b"go on\n")
            process.stdin.flush()

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


@pytest.fixture(scope="module")
def start_world():
    """Return a function that starts the processes of a world; they end with the module's tests."""
    worlds = []

    def start(program, name, ranks, folder):
        worlds.append(World(program, name, ranks, folder))
        return worlds[-1]

    yield start
    for world in worlds:
        world.end()
