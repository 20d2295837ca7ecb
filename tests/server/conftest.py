import pytest
import torch
from torch import nn

from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.lives import open_run
from codistill.exchange.checkpoint.publisher import Publisher
from codistill.exchange.teacher_options import TeacherOptions
from codistill.parallel.weights import named_tensors
from codistill.server import PredictionServer
from codistill.snapshots.codec import encode
from codistill.stores.memory import MemoryStore
from codistill.testing.faulty_store import FaultyStore

FEATURES, CLASSES = 4, 3


def build(info=None):
    return nn.Linear(FEATURES, CLASSES)


class Peer:
    """A peer that publishes whatever it is told to."""

    def __init__(self, store, name, *, incarnation=0, signing_key=None):
        self.name = name
        life = Life(run_id=open_run(store), peer=name, incarnation=incarnation, interval_steps=5, metadata={})
        self.publisher = Publisher(store, life, signing_key=signing_key, keep=2)
        self.step = 0

    def publish(self, model, *, finished=False, task_loss=1.0):
        """Publish a model; return the number of the step."""
        self.step += 1
        progress = Progress(step=self.step, samples=8 * self.step, task_loss=task_loss)
        self.publisher.publish(encode(named_tensors(model)), progress, finished=finished)
        return self.step


@pytest.fixture
def model_of():
    """Return a function that makes a model with weights that follow from a number."""
    return make_model


def make_model(seed, make=build):
    model = make().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def store():
    store = FaultyStore(MemoryStore())
    open_run(store)
    return store


@pytest.fixture(scope="session")
def peer_of():
    """Return the class of peers that publish what a test gives them."""
    return Peer


@pytest.fixture
def serve():
    """Return a function that starts a server, which ends with the test."""
    servers = []

    def start(store, *, make=build, max_teachers=4, **options):
        # It looks when a test tells it to, and when it is started.
        options = {"poll_s": 3600.0, **options}
        teachers = TeacherOptions(build=lambda info: make(), max_teachers=max_teachers)
        server = PredictionServer(store, teachers=teachers, **options)
        servers.append(server)
        server.start()
        server.look()
        return server

    yield start
    for server in servers:
        server.close()
