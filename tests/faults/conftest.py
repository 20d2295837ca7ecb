import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from codistill import CheckpointExchange, Codistiller
from codistill.errors import AdviceWarning, CodistillWarning
from codistill.stores.memory import MemoryStore
from codistill.testing import FakeClock, FaultyStore, InlineBackground

# The long run and these tests break peers by the same means; last, as other modules have the same names.
sys.path += [str(Path(__file__).parents[2] / "benchmarks"), str(Path(__file__).parent)]

CLASSES = 3


class Student:
    """A peer in this process, of which each step is one line of a test."""

    def __init__(
        self, store, peer, *, value=None, model=None, background=None, clock=None, state=None, **options
    ):
        self.model = nn.Linear(4, CLASSES) if model is None else model
        self.become(float(ord(peer)) if value is None else value)
        self.exchange = CheckpointExchange(store, peer=peer, **{"interval_steps": 1, **options})
        self.clock = self.exchange.clock = FakeClock() if clock is None else clock
        self.background = self.exchange.background = InlineBackground() if background is None else background
        self.codistiller = Codistiller(self.model, self.exchange)
        if state is not None:
            self.codistiller.load_state_dict(state)

    def become(self, value):
        """Make all weights one number."""
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(value)

    def loss(self):
        inputs = torch.eye(1, 4)
        return self.codistiller.loss(self.model(inputs), inputs)

    def step(self, steps=1, *, task_loss=None, samples=0):
        """Make steps of training that change nothing; return the last report.

        By default on no samples: peers that a test lets step unevenly are not too young for one another.
        """
        for _ in range(steps):
            self.loss()
            report = self.codistiller.step(task_loss=task_loss, samples=samples)
        return report

    def say(self, steps=1, **told):
        """Make steps; return the warnings."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CodistillWarning)
            warnings.simplefilter("ignore", AdviceWarning)
            self.step(steps, **told)
        return [str(warning.message) for warning in caught]

    def value_of(self, peer):
        """Return the number that all weights of a teacher are."""
        with torch.no_grad():
            predictions = self.codistiller.predict(torch.eye(1, 4)).peers
        (logits,) = [prediction.target.logits for prediction in predictions if prediction.peer == peer]
        return float(logits[0, 0]) / 2  # weight and bias, both the same

    def close(self, **options):
        self.codistiller.close(**options)


@pytest.fixture
def store():
    return FaultyStore(MemoryStore())


@pytest.fixture
def join():
    """Return a function that makes a peer; those that have threads are closed in the end."""
    students = []

    def make(*arguments, **options):
        students.append(Student(*arguments, **options))
        return students[-1]

    yield make
    for student in students:
        with warnings.catch_warnings():
            # Those whose name the test had taken over say so.
            warnings.filterwarnings("ignore", "Peer .* has been taken over", CodistillWarning)
            student.close(publish=False, timeout_s=30.0)


@pytest.fixture
def start_peer():
    """Return a function that starts a peer which is told what to do, and returns process and connection."""
    from commanded_peer import obey
    from faults.processes import pipe, processes

    connections = []
    with processes() as start:

        def start_commanded(job):
            ours, theirs = pipe()
            process = start(obey, job, theirs)
            theirs.close()
            connections.append(ours)
            return process, ours

        yield start_commanded
    for connection in connections:
        connection.close()


@pytest.fixture
def ask():
    """Return a function that tells a peer what to do, and returns its answer."""

    def tell(connection, *command):
        connection.send(command)
        assert connection.poll(60.0)
        return connection.recv()

    return tell
