"""A peer that trains for real, tells what it sees, and may be killed at any instruction."""

import hashlib
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from codistill import CheckpointExchange, Codistiller
from codistill.step_report import StepReport
from codistill.stores.base import Store
from faults.journal import Journal

FEATURES, CLASSES = 64, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How one life of a peer is started."""

    store: Path
    """The run's folder."""
    folder: Path
    """Where state, journals and what it prints go."""
    peer: str
    """Its name."""
    life: int = 0
    """How often it was started before."""
    interval_steps: int = 50
    """Optimizer steps between two publishes."""
    width: int = 256
    """Hidden units of the model, of two layers."""
    idle_s: float = 0.0
    """What each step sleeps, as a process does that waits for its accelerator."""

    @property
    def state_path(self) -> Path:
        """Where its state is saved."""
        return self.folder / f"{self.peer}.state"

    @property
    def journal_path(self) -> Path:
        """Where this life writes what it sees."""
        return self.folder / f"{self.peer}-{self.life}.jsonl"

    @property
    def output_path(self) -> Path:
        """Where this life's stdout and stderr go."""
        return self.folder / f"{self.peer}-{self.life}.err"


class Net(nn.Module):
    """Three layers; given no features at all it returns its weights.

    So a teacher, which is a copy of its student and otherwise out of reach, can be asked what it holds.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, CLASSES),
        )

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.shape[-1] == 0:
            return torch.cat([parameter.detach().flatten() for parameter in self.parameters()])[None]
        logits: Tensor = self.layers(inputs)
        return logits


def digest(weights: Tensor) -> str:
    """Return what two models have in common if and only if their weights are the same to the bit."""
    return hashlib.sha256(weights.contiguous().numpy()).hexdigest()


class Trainer:
    """A student, its optimizer and its data, that go on where the peer's saved state was."""

    def __init__(self, job: Job, *, store: Store | None = None, journal: Journal | None = None) -> None:
        """Load the state if there is one.

        Args:
            job: What to train.
            store: Instead of the folder of the job.
            journal: Where to write down what is published and taken.
        """
        self.job = job
        self._journal = journal
        self._number = int.from_bytes(hashlib.sha256(job.peer.encode()).digest()[:4])
        torch.manual_seed(self._number)
        self.model = Net(job.width)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.02, momentum=0.9)
        self.exchange = CheckpointExchange(
            job.store if store is None else store,
            peer=job.peer,
            interval_steps=job.interval_steps,
            topology="all",
        )
        self.codistiller = Codistiller(self.model, self.exchange)
        self.steps = 0
        if job.state_path.exists():
            state = torch.load(job.state_path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.codistiller.load_state_dict(state["codistiller"])
            self.steps = state["steps"]
        # The task is the same for all peers, their data are not.
        self._task = torch.randn(FEATURES, CLASSES, generator=torch.Generator().manual_seed(0))

    def step(self) -> StepReport:
        """Train on one batch, which depends on the peer and the number of the step only."""
        generator = torch.Generator().manual_seed(self._number ^ (self.steps << 20))
        inputs = torch.randn(32, FEATURES, generator=generator)
        targets = (inputs @ self._task).argmax(1)
        logits = self.model(inputs)
        task_loss = F.cross_entropy(logits, targets)
        (task_loss + self.codistiller.loss(logits, inputs)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        if self.steps % self.job.interval_steps == 0:
            self.note_weights()
        report = self.codistiller.step(task_loss=task_loss.detach())
        if report.published and self._journal is not None:
            self._journal.note("published", step=self.steps)
        if report.fetched:
            self._note_taken(report.fetched)
        return report

    def save(self) -> None:
        """Save the state; whoever is killed meanwhile keeps the one before."""
        new = self.job.state_path.with_suffix(".new")
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "codistiller": self.codistiller.state_dict(),
                "steps": self.steps,
            },
            new,
        )
        new.replace(self.job.state_path)

    @property
    def incarnation(self) -> int | None:
        """Which life of the peer this is; None before it began."""
        incarnation: int | None = self.codistiller.state_dict()["exchange"].get("incarnation")
        return incarnation

    def note_weights(self) -> None:
        """Write down what is about to be published."""
        if self._journal is not None:
            weights = digest(self.model(torch.empty(1, 0)))
            self._journal.note("weights", step=self.steps, incarnation=self.incarnation, digest=weights)

    def _note_taken(self, peers: Iterable[str]) -> None:
        """Write down what the teachers hold whose snapshots have just been taken."""
        if self._journal is None:
            return
        with torch.no_grad():
            predictions = self.codistiller.predict(torch.empty(1, 0))
        held = {peer.peer: digest(peer.target.logits) for peer in predictions.peers}
        for peer in peers:
            info = self.codistiller.teachers[peer]
            self._journal.note(
                "took",
                peer=peer,
                incarnation=info.incarnation,
                sequence=info.sequence,
                of_step=info.step,
                step=self.steps,
                digest=held.get(peer),
            )


def train(job: Job, open_store: Callable[[Job], Store]) -> None:
    """Train until the file ``stop`` is there, in a process of its own.

    Args:
        job: What.
        open_store: Returns the store of a job.
    """
    output = os.open(job.output_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    journal = Journal(job.journal_path)
    # The showing of warnings is replaced, not the warnings: what is said, and how often, is to be seen.
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_, **__: journal.note("warning", message=str(message))
    try:
        _train(job, journal, open_store(job))
    except BaseException as error:
        journal.note("error", type=type(error).__name__, message=str(error))
        raise


def _train(job: Job, journal: Journal, store: Store) -> None:
    trainer = Trainer(job, store=store, journal=journal)
    stop, parent = job.folder / "stop", multiprocessing.parent_process()
    assert parent is not None
    journal.note("loaded", step=trainer.steps)
    report = trainer.step()
    journal.note("began", step=trainer.steps, incarnation=trainer.incarnation)
    published, stall_s, begin_s = 0, report.stall_s, time.perf_counter()
    longest_step_s = longest_stall_s = 0.0
    # Whose parent has died is nobody's any more.
    while not stop.exists() and parent.is_alive():
        report = trainer.step()
        time.sleep(job.idle_s)
        now_s = time.perf_counter()
        longest_step_s, begin_s = max(longest_step_s, now_s - begin_s), now_s
        longest_stall_s, stall_s = max(longest_stall_s, report.stall_s - stall_s), report.stall_s
        published += report.published
        if trainer.steps % job.interval_steps == 0:
            journal.note(
                "interval",
                step=trainer.steps,
                longest_step_s=longest_step_s,
                longest_stall_s=longest_stall_s,
                published=published,
                skipped=report.publishes_skipped,
                shares=dict(report.shares),
                ages=dict(report.teachers),
                quarantined=list(report.quarantined),
                factor=report.weight_factor,
            )
            longest_step_s = longest_stall_s = 0.0
            trainer.save()
    trainer.note_weights()
    trainer.codistiller.close()
    journal.note("closed", step=trainer.steps)
