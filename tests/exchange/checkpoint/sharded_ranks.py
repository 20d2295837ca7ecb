"""What the processes of `test_sharded` run: ``python sharded_ranks.py WORLD RANK RANKS FOLDER``.

Each world is one peer, whose ranks divide the model among them with ``fully_shard`` (but for a world of one
rank, whose model is plain), and does the scenarios of its world in turn.
"""

import datetime
import json
import os
import sys
import traceback
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from codistill import (
    CheckpointExchange,
    Codistiller,
    CodistillWarning,
    Membership,
    SnapshotOptions,
    TeacherOptions,
)
from codistill.parallel.weights import named_fragments
from codistill.stores import DirectoryStore
from codistill.testing import FaultyStore

BATCH = 8
TIMEOUT_S = 60.0
WORDS = 7


class Net(nn.Module):
    """Tied weights, running statistics, and sizes that no number of ranks divides."""

    def __init__(self, width=6):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.inner = nn.Sequential(nn.Linear(width, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, width))
        self.head = nn.Linear(width, WORDS)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, tokens):
        return self.head(self.inner(self.embedding(tokens)) * self.scale)


class Peer:
    """One rank of a peer."""

    def __init__(self, folder, name, rank, ranks, *, width=6, build=None, shard=fully_shard, wrap=None, **options):
        self.store = FaultyStore(DirectoryStore(folder))
        self.rank = rank
        self.mesh = None if ranks == 1 else init_device_mesh("cpu", (ranks,))
        self.shard = shard
        torch.manual_seed(ord(name))
        self.model = self.divide(Net(width))
        if wrap is not None:
            self.model = wrap(self.model)
        teachers = options.pop("teachers", None)
        if teachers is None and self.mesh is not None:
            teachers = TeacherOptions(build=build or self.build)
        self.exchange = CheckpointExchange(self.store, peer=name, teachers=teachers, **options)
        self.codistiller = Codistiller(self.model, self.exchange)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.step = 0

    def divide(self, model):
        if self.mesh is not None:
            self.shard(model.inner, mesh=self.mesh)
            self.shard(model, mesh=self.mesh)
        return model

    def build(self, info):
        with torch.device("meta"):
            model = Net()
        return self.divide(model)

    def batch(self):
        generator = torch.Generator().manual_seed(1000 * self.rank + self.step)
        tokens = torch.randint(WORDS, (BATCH,), generator=generator)
        return tokens, torch.randint(WORDS, (BATCH,), generator=generator)

    def train(self, *, settle=True):
        tokens, targets = self.batch()
        logits = self.model(tokens)
        task_loss = F.cross_entropy(logits, targets)
        loss = task_loss + self.codistiller.loss(logits, tokens)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        self.report = self.codistiller.step(task_loss=task_loss.detach())
        if settle:
            self.settle()

    def settle(self):
        """Wait until the background has nothing more to do."""
        pace = self.exchange._life.pace
        workers = [pace._publishing, pace._looking, pace._delivery._worker]
        if pace._sharded is not None:
            workers.append(pace._sharded._worker)
        for worker in workers:
            assert worker.wait(TIMEOUT_S)

    def own(self):
        return fragments_of(self.model)

    def taught(self):
        """Return what this rank holds of each teacher, and which snapshot it is."""
        classroom = self.exchange._life.classroom
        return {
            peer: {"step": info.step, "fragments": fragments_of(classroom._teachers[peer].module)}
            for peer, info in self.codistiller.teachers.items()
        }

    def steps_of_teachers(self):
        return {peer: info.step for peer, info in self.codistiller.teachers.items()}


def fragments_of(model):
    return {
        name: [list(fragment.box.offsets), list(fragment.shape), fragment.values.clone()]
        for name, fragment in named_fragments(model).items()
    }


def unequal_ranks(folder, name, rank, ranks):
    """Peers of 1, 2 and 4 ranks learn from one another in lockstep."""
    peer = Peer(
        folder,
        name,
        rank,
        ranks,
        peers=["a", "b", "d"],
        topology="all",
        lockstep=True,
        interval_steps=2,
    )
    history = {}
    while peer.step < 6:
        peer.train(settle=False)
        if peer.step % 2 == 0:
            history[peer.step] = {"own": peer.own(), "taught": peer.taught()}
    peer.codistiller.close()
    return history


WORLDS = {"a": [unequal_ranks], "b": [unequal_ranks], "d": [unequal_ranks]}


def main(name, rank, ranks, folder):
    torch.set_num_threads(1)
    warnings.simplefilter("error", CodistillWarning)
    if ranks > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / name}.rendezvous",
            rank=rank,
            world_size=ranks,
            timeout=datetime.timedelta(seconds=TIMEOUT_S),
        )
    results = {s.__name__: s(folder / s.__name__, name, rank, ranks) for s in WORLDS[name]}
    torch.save(results, folder / f"{name}-{rank}.pt")


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    except BaseException:  # noqa: BLE001 - it ends in the log
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    # Gloo may abort an interpreter that exits, and a rank that has failed must not wait for the others.
    os._exit(0)
