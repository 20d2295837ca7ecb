"""Weights to and from a GPU: streams, pinned staging, teachers elsewhere. To be run where there is a GPU."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from codistill import CheckpointExchange, Codistiller, Membership, TeacherOptions, load_snapshot
from codistill.exchange.checkpoint.background import Background, Job, Threads, Worker
from codistill.testing import InlineBackground, run_peers

WIDTH = 256
# Longer by far than everything that is queued behind it.
LONG_CYCLES = 2_000_000_000


def make_model(seed: int, device: torch.device) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, 4))
    return model.to(device)


class SettledThreads(Background):
    """Threads, and a way to wait until they have done all that they were given."""

    def __init__(self) -> None:
        self._threads = Threads()
        self._workers: list[Worker] = []

    def worker(self, name: str) -> Worker:
        self._workers.append(self._threads.worker(name))
        return self._workers[-1]

    def repeat(self, name: str, job: Job, period_s: float) -> None:
        self._threads.repeat(name, job, period_s)

    def stop(self, timeout_s: float) -> list[str]:
        return self._threads.stop(timeout_s)

    def settle(self) -> None:
        assert all(worker.wait(60.0) for worker in self._workers)


class Student:
    """A peer, and its training loop."""

    def __init__(
        self, store: Path, peer: str, device: torch.device, *, interval_steps: int = 1, **options: object
    ) -> None:
        self.model = make_model(ord(peer), device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.exchange = CheckpointExchange(store, peer=peer, interval_steps=interval_steps, **options)
        self.codistiller = Codistiller(self.model, self.exchange)
        self._generator = torch.Generator().manual_seed(ord(peer))

    def batch(self) -> tuple[Tensor, Tensor]:
        device = next(self.model.parameters()).device
        inputs = torch.randn(16, 8, generator=self._generator)
        return inputs.to(device), torch.randint(4, (16,), generator=self._generator).to(device)

    def train(self) -> None:
        inputs, targets = self.batch()
        logits = self.model(inputs)
        self.term = self.codistiller.loss(logits, inputs)
        loss = cross_entropy(logits, targets) + self.term
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def step(self) -> None:
        self.report = self.codistiller.step()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_snapshot_holds_the_weights_of_its_step_though_training_goes_on_at_once(
    tmp_path: Path, device: torch.device
) -> None:
    student = Student(tmp_path, "a", device)
    for _ in range(3):
        student.train()
    weights = state_of(student.model)
    student.step()
    # Queued behind the copy to the staging buffer; must not overtake it.
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.fill_(torch.nan)
    student.codistiller.close(publish=False)
    published, info = load_snapshot(tmp_path, "a")
    assert info.step == 1
    assert_equal(published, weights)


def test_publishing_does_not_wait_for_the_device(tmp_path: Path, gpu: torch.device) -> None:
    student = Student(tmp_path, "a", gpu)
    student.exchange.background = background = SettledThreads()
    student.train()
    # Pins memory, which waits.
    student.step()
    background.settle()
    student.train()
    torch.cuda._sleep(LONG_CYCLES)
    done = torch.cuda.Event()
    done.record()
    student.step()
    assert student.report.published
    assert not done.query()
    torch.cuda.synchronize()
    student.codistiller.close()


def test_predicting_and_changing_a_teacher_do_not_wait_for_the_device(
    tmp_path: Path, device: torch.device
) -> None:
    student, teacher = (Student(tmp_path, peer, device, interval_steps=2) for peer in "ab")
    for one in (student, teacher):
        one.exchange.background = SettledThreads()
    # The student looks at its steps 2 and 4, and takes what was found at steps 3 and 5.
    for one in (teacher, teacher, student, student, student, teacher, teacher, student):
        one.train()
        one.step()
        one.exchange.background.settle()
    held = student.codistiller.teachers["b"].sequence
    student.train()
    # Not from pinned memory, so this waits.
    inputs, _ = student.batch()
    done = torch.cuda.Event() if device.type == "cuda" else None
    if done is not None:
        torch.cuda._sleep(LONG_CYCLES)
        done.record()
    term = student.codistiller.loss(student.model(inputs), inputs)
    student.step()
    # That the copies to the teacher were queued, too, says that they came from pinned memory.
    assert done is None or not done.query()
    assert student.codistiller.teachers["b"].sequence == held + 1
    assert term.item() > 0.0
    for one in (student, teacher):
        one.codistiller.close()


@pytest.mark.parametrize("place", ["same", "cpu", "cuda:1"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_teacher_predicts_what_its_peer_would_wherever_it_lives(
    tmp_path: Path, device: torch.device, place: str, dtype: torch.dtype | None
) -> None:
    if place == "cuda:1" and torch.cuda.device_count() < 2:
        pytest.skip(f"needs 2 GPUs, found {torch.cuda.device_count()}")
    options = TeacherOptions(device=None if place == "same" else place, dtype=dtype)
    student = Student(tmp_path, "a", device, teachers=options)
    teacher = Student(tmp_path, "b", device)
    for one in (student, teacher):
        one.exchange.background = InlineBackground()
    for one in (student, teacher, student, student):
        one.train()
        one.step()
    inputs, _ = student.batch()
    (prediction,) = student.codistiller.predict(inputs).peers
    assert prediction.target.logits.device == next(student.model.parameters()).device
    with torch.no_grad():
        expected = teacher.model.eval()(inputs)
    tolerance = 1e-4 if dtype is None else 0.1
    torch.testing.assert_close(prediction.target.logits.float(), expected, rtol=tolerance, atol=tolerance)
    for one in (student, teacher):
        one.codistiller.close()


@pytest.mark.filterwarnings("ignore::codistill.errors.CodistillWarning")  # of one that gets ahead
def test_peers_that_run_free_beside_each_other_learn_from_each_other(
    tmp_path: Path, device: torch.device
) -> None:
    students = {
        peer: Student(tmp_path, peer, device, membership=Membership(start_with_peers=1)) for peer in "ab"
    }

    def train(peer: str) -> float:
        student = students[peer]
        # Each in a stream of its own, as in a process of its own.
        with torch.cuda.stream(torch.cuda.Stream()) if device.type == "cuda" else nullcontext():
            for _ in range(30):
                student.train()
                student.step()
            student.codistiller.close()
        return student.report.teacher_share

    if device.type == "cuda":
        # What the models were made by, in the default stream.
        torch.cuda.synchronize()
    shares = run_peers(train, "ab")
    if device.type == "cuda":
        torch.cuda.synchronize()
    assert min(shares.values()) > 0.0
    for peer, student in students.items():
        published, info = load_snapshot(tmp_path, peer)
        assert info.finished
        assert_equal(published, state_of(student.model))
