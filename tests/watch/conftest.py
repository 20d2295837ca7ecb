from dataclasses import replace

import pytest

from codistill.exchange.checkpoint.lives import open_run
from codistill.snapshots.keys import status_key
from codistill.snapshots.status import Status
from codistill.stores.memory import MemoryStore
from codistill.testing.clock import FakeClock
from codistill.testing.faulty_store import FaultyStore
from codistill.watch.view import PeerView, View
from codistill.watch.watcher import Watcher


@pytest.fixture
def store():
    store = FaultyStore(MemoryStore())
    open_run(store)
    return store


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def watcher(store, clock):
    return Watcher(store, interval_s=2.0, clock=clock)


@pytest.fixture
def tell(store):
    """Return a function that lets a peer tell something of itself."""
    beats = {}

    def write(peer, **fields):
        beats[peer] = beats.get(peer, 0) + 1
        plain = Status(
            run_id=open_run(store),
            peer=peer,
            incarnation=0,
            heartbeat=beats[peer],
            step=0,
            samples=0,
            task_loss=None,
            distillation_loss=None,
            state="running",
            reading={},
        )
        store.write(status_key(peer), replace(plain, **fields).to_json())

    return write


@pytest.fixture
def look(watcher, clock):
    """Return a function that lets time pass and looks: it returns the view, and its peers by name."""

    def look_after(seconds=0.0):
        clock.advance(seconds)
        watcher.look()
        view = watcher.view()
        return view, {peer.peer: peer for peer in view.peers}

    return look_after


@pytest.fixture
def view_of():
    """Return a function that makes a view of peers by their names and what they tell."""

    def make(peers, **fields):
        plain = View(
            store="runs/x",
            run_id="c0ffee",
            watched_s=60.0,
            away_s=None,
            came_back=0,
            problems=(),
            peers=tuple(replace(_PLAIN_PEER, peer=name, **told) for name, told in peers.items()),
        )
        return replace(plain, **fields)

    return make


_PLAIN_PEER = PeerView(
    peer="a",
    state="running",
    is_confirmed=True,
    silent_s=None,
    waits_for=None,
    incarnation=0,
    sequence=4,
    step=1200,
    steps_per_s=12.5,
    samples=38400,
    task_loss=0.25,
    task_losses=(1.0, 0.5, 0.25),
    distillation_loss=0.125,
    distillation_losses=(0.5, 0.25, 0.125),
    agreement={"b": 0.9, "c": 0.7},
    weight=1.0,
    teachers={"b": 40, "c": None},
    stall_share=0.0123,
    quarantined=("c",),
    advice=(),
    problems=(),
)
