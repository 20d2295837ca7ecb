"""What the processes of `test_ranks` run: ``python ranks.py WORLD RANK RANKS FOLDER``.

Each does the scenarios of its world in turn and leaves what they returned as JSON.
"""

import contextlib
import datetime
import hashlib
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
from torch.nn.parallel import DistributedDataParallel

from codistill import CheckpointExchange, Codistiller, CodistillWarning, Membership, load_snapshot
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.lives import claim_life, open_run
from codistill.exchange.checkpoint.publisher import Publisher
from codistill.parallel.weights import named_tensors
from codistill.snapshots.codec import encode
from codistill.stores import DirectoryStore
from codistill.testing import FaultyStore

BATCH = 8
TIMEOUT_S = 60.0
LAST_STEP_OF_B = 10


def make_model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def digest(model):
    """Return what tells two models apart; running statistics too, which each rank has of its own."""
    return _digest(named_tensors(model))


def digest_of_parameters(model):
    return _digest(dict(model.named_parameters()))


def _digest(tensors):
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors.values())).hexdigest()


class Student:
    """One rank of a peer."""

    def __init__(self, store, peer, *, rank, model=None, group=None, **options):
        self.store = FaultyStore(store)
        self.rank = rank
        self.model = (
            DistributedDataParallel(make_model(ord(peer)), process_group=group) if model is None else model
        )
        self.exchange = CheckpointExchange(self.store, peer=peer, **{"interval_steps": 5, **options})
        self.codistiller = Codistiller(self.model, self.exchange, group=group)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.step = 0

    def batch(self):
        generator = torch.Generator().manual_seed(1000 * self.rank + self.step)
        return torch.randn(BATCH, 4, generator=generator), torch.randint(3, (BATCH,), generator=generator)

    def train(self, *, inputs_of_teacher=None, samples=None):
        inputs, targets = self.batch()
        logits = self.model(inputs)
        task_loss = F.cross_entropy(logits, targets)
        term = self.codistiller.loss(logits, inputs if inputs_of_teacher is None else inputs_of_teacher)
        self.optimizer.zero_grad()
        (task_loss + term).backward()
        self.optimizer.step()
        self.step += 1
        self.loss = task_loss.item(), term.item()
        self.report = self.codistiller.step(task_loss=task_loss.detach(), samples=samples)
        self.settle()

    def settle(self):
        """Wait until the background has nothing more to do."""
        pace = self.exchange._life.pace
        for worker in (pace._publishing, pace._looking, pace._delivery._worker):
            assert worker.wait(TIMEOUT_S)

    def look(self):
        """Return whose weights the teachers hold, and which they are."""
        classroom = self.exchange._life.classroom
        return {
            peer: [info.incarnation, info.sequence, info.step, digest(classroom._teachers[peer].module)]
            for peer, info in self.codistiller.teachers.items()
        }


def publish(store, peer, step, *, incarnation=0):
    """Let a peer of a test's own publish once, as if it had been trained on very much."""
    life = Life(run_id=open_run(store), peer=peer, incarnation=incarnation, interval_steps=5, metadata={})
    encoded = encode(named_tensors(make_model(100 + incarnation)))
    Publisher(store, life).publish(encoded, Progress(step=step, samples=10**6), finished=False)


def say_and_wait(message):
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()
    sys.stdin.readline()


# A world of two ranks, which are one peer


def beside_a_peer_of_one_rank(folder, rank):
    """Learn from a process that trains at the same time; the test says when each may go on."""
    student = Student(DirectoryStore(folder), "a", rank=rank, membership=Membership(start_with_peers=1))
    history = []
    for _ in range(4):
        student.train()
        history.append(student.look())
    say_and_wait("has its first teacher")
    while student.step < 60:
        student.train()
        history.append(student.look())
    student.codistiller.close()
    return {
        "history": history,
        "calls": [list(call) for call in student.store.calls],
        "parameters": digest_of_parameters(student.model),
        "samples": student.report.samples,
    }


def nan_on_one_rank(folder, rank):
    """For one rank's part of the batch the teacher's predictions are no numbers."""
    store = DirectoryStore(folder)
    if rank == 0:
        publish(store, "b", 1)
    dist.barrier()
    student = Student(store, "a", rank=rank)
    wild = torch.full((BATCH, 4), torch.nan) if rank == 1 else None
    quarantined, terms = [], []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(1, 61):
            if step == 21 and rank == 0:
                publish(store, "b", 2, incarnation=1)
            student.train(inputs_of_teacher=wild if step < 20 else None)
            quarantined.append(bool(student.report.quarantined))
            terms.append(student.loss[1])
    student.codistiller.close()
    return {"quarantined": quarantined, "terms": terms, "said": [str(warning.message) for warning in said]}


def steps_until_an_error(student, before=lambda step: None):
    for step in range(1, 31):
        before(step)
        try:
            student.train()
        except Exception as error:  # noqa: BLE001 - it is the result
            student.codistiller.close(publish=False)
            return [step, type(error).__name__, str(error), getattr(error, "__notes__", [])]
    return None


def mistake_in_the_background(folder, rank):
    student = Student(DirectoryStore(folder), "a", rank=rank)
    student.store.faults.fail(
        "write", times=1, key_contains="snapshots", error=ZeroDivisionError("a mistake")
    )
    return steps_until_an_error(student)


def name_that_is_taken_over(folder, rank):
    student = Student(DirectoryStore(folder), "a", rank=rank)

    def claim(step):
        if step == 3 and rank == 0:
            claim_life(student.store, "a", after=0)

    return steps_until_an_error(student, claim)


def misfit_at_the_start(folder, rank):
    """What hinders the start on rank 0 hinders it on all."""
    store = DirectoryStore(folder)
    if rank == 0:
        publish(store, "a", 7)
    dist.barrier()
    return steps_until_an_error(Student(store, "a", rank=rank))


def accumulation_autocast_and_validation(folder, rank):
    """Two micro-batches a step, half of the steps in half precision, and one rank that looks between."""
    store = DirectoryStore(folder)
    if rank == 0:
        publish(store, "b", 1)
    dist.barrier()
    student = Student(store, "a", rank=rank, interval_steps=10)
    dtypes = set()
    for step in range(1, 21):
        student.optimizer.zero_grad()
        for micro_batch in range(2):
            first = micro_batch == 0
            with (
                student.model.no_sync() if first else contextlib.nullcontext(),
                torch.autocast("cpu", dtype=torch.bfloat16, enabled=step % 2 == 0),
            ):
                inputs, targets = student.batch()
                logits = student.model(inputs)
                predictions = student.codistiller.predict(inputs)
                dtypes |= {str(peer.target.logits.dtype) for peer in predictions.peers}
                loss = F.cross_entropy(logits, targets) + student.codistiller.loss(logits, predictions)
            loss.backward()
        student.optimizer.step()
        student.step += 1
        report = student.codistiller.step()
        student.settle()
        if rank == 0:
            model = student.model.module
            with torch.no_grad():
                for _ in range(3):
                    inputs, _ = student.batch()
                    student.codistiller.predict(inputs)
                    student.codistiller.loss(model.eval()(inputs), inputs)
            model.train()
    student.codistiller.close()
    return {
        "parameters": digest_of_parameters(student.model),
        "samples": report.samples,
        "dtypes": sorted(dtypes),
        "ages": dict(report.teachers),
    }


def wrapped_students(folder, rank):
    """The names that a student publishes, whatever it is wrapped in."""
    names = {}
    kinds = {
        "ddp of compiled": lambda: DistributedDataParallel(torch.compile(make_model(1), backend="eager")),
        "compiled ddp": lambda: torch.compile(DistributedDataParallel(make_model(1)), backend="eager"),
    }
    for kind, make in kinds.items():
        store = DirectoryStore(folder / kind.replace(" ", "-"))
        model = make()
        codistiller = Codistiller(model, CheckpointExchange(store, peer="a", interval_steps=1))
        inputs = torch.zeros(BATCH, 4)
        codistiller.loss(make_model(1)(inputs), inputs)
        codistiller.step()
        codistiller.close()
        dist.barrier()
        names[kind] = sorted(load_snapshot(store, "a")[0])
    return names


# A world of four ranks, which are two peers


def two_peers_in_one_world(folder, rank):
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    peer = "ab"[rank // 2]
    student = Student(
        DirectoryStore(folder),
        peer,
        rank=rank % 2,
        group=groups[rank // 2],
        membership=Membership(start_with_peers=1),
    )
    published, history, parameters = {}, [], []
    for _ in range(50):
        student.train()
        parameters.append(digest_of_parameters(student.model))
        if student.step % 5 == 0:
            published[student.step] = digest(student.model)
        history.append(student.look())
        dist.barrier()
    student.codistiller.close()
    return {
        "published": published,
        "history": history,
        "parameters": parameters,
        "calls": len(student.store.calls),
        "samples": student.report.samples,
    }


def lockstep_twice(folder, rank):
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    runs = []
    for run in range(2):
        student = Student(
            DirectoryStore(folder / f"run-{run}"),
            "ab"[rank // 2],
            rank=rank % 2,
            group=groups[rank // 2],
            peers=["a", "b"],
            lockstep=True,
            interval_steps=2,
        )
        student.settle = lambda: None
        trace = []
        for _ in range(12):
            student.train()
            weights = digest_of_parameters(student.model), digest(student.model)
            trace.append([student.look(), *weights, student.loss])
        student.codistiller.close()
        runs.append(trace)
        dist.barrier()
    return runs


# A process that is a peer


def beside_a_peer_of_two_ranks(folder, rank):
    student = Student(
        DirectoryStore(folder), "b", rank=7, model=make_model(2), membership=Membership(start_with_peers=1)
    )
    student.train(samples=2 * BATCH)
    say_and_wait("has its first teacher")
    while student.step < LAST_STEP_OF_B:
        student.train(samples=2 * BATCH)
    found = student.look()
    student.codistiller.close()
    return {"weights": digest(student.model), "found": found}


WORLDS = {
    "two": [
        beside_a_peer_of_one_rank,
        nan_on_one_rank,
        mistake_in_the_background,
        name_that_is_taken_over,
        misfit_at_the_start,
        accumulation_autocast_and_validation,
        wrapped_students,
    ],
    "four": [two_peers_in_one_world, lockstep_twice],
    "one": [beside_a_peer_of_two_ranks],
}


def main(world, rank, ranks, folder):
    torch.set_num_threads(1)
    warnings.simplefilter("error", CodistillWarning)
    if ranks > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / world}.rendezvous",
            rank=rank,
            world_size=ranks,
            timeout=datetime.timedelta(seconds=TIMEOUT_S),
        )
    results = {}
    for scenario in WORLDS[world]:
        # The first of the worlds of one and of two are one run.
        place = "run" if scenario.__name__.startswith("beside") else scenario.__name__
        results[scenario.__name__] = scenario(folder / place, rank)
    (folder / f"{world}-{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    except BaseException:  # noqa: BLE001 - it ends in the log
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    # Gloo may abort an interpreter that exits, and a rank that has failed must not wait for the others.
    os._exit(0)
