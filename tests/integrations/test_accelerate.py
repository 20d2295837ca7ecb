"""A loop of Accelerate as a peer: nothing of codistill knows of Accelerate, so this is what keeps it so."""

import difflib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from codistill import CheckpointExchange, Codistiller, Membership, load_snapshot
from codistill.testing import InlineBackground

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "accelerate_peer.py"


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Forget what Accelerate keeps for a whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def make(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 5))


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(8, 4, generator=generator), torch.randint(5, (8,), generator=generator))
        for _ in range(8)
    ]


def exchange(store: Path, peer: str, **options: Any) -> CheckpointExchange:
    made = CheckpointExchange(store, peer=peer, **options)
    made.background = InlineBackground()
    return made


def leave_a_snapshot(store: Path) -> nn.Module:
    model = make(1)
    with Codistiller(model, exchange(store, "b")) as codistiller:
        codistiller.loss(model(torch.zeros(2, 4)), torch.zeros(2, 4))
        codistiller.step(task_loss=1.0)
    return model


class Run:
    """The loop of the page, with what it needs to go on."""

    def __init__(self, store: Path, **options: Any) -> None:
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, **options)
        model = make(0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        membership = Membership(start_with_peers=1)
        self.codistiller = Codistiller(self.model, exchange(store, "a", membership=membership))
        self.accelerator.register_for_checkpointing(self.codistiller)
        self.losses: list[float] = []

    def train(self, part: list[tuple[Tensor, Tensor]]) -> None:
        for inputs, targets in part:
            with self.accelerator.accumulate(self.model):
                logits = self.model(inputs)
                task_loss = cross_entropy(logits, targets)
                loss = task_loss + self.codistiller.loss(logits, inputs)
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.optimizer.zero_grad()
                if self.accelerator.sync_gradients:
                    self.codistiller.step(task_loss=task_loss.detach(), optimizer=self.optimizer)
            self.losses.append(loss.item())


def test_accumulated_losses_and_weights_are_those_of_the_loop_by_hand(tmp_path: Path) -> None:
    teacher = leave_a_snapshot(tmp_path / "store")
    run = Run(tmp_path / "store")
    run.train(batches())
    run.codistiller.close()
    model = make(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    by_hand = []
    for number, (inputs, targets) in enumerate(batches(), start=1):
        logits = model(inputs)
        with torch.no_grad():
            wanted = log_softmax(teacher(inputs), -1)
        distance = kl_div(log_softmax(logits, -1), wanted, reduction="batchmean", log_target=True)
        loss = cross_entropy(logits, targets) + distance
        (loss / 2).backward()
        by_hand.append(loss.item())
        if number % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
    assert run.losses == pytest.approx(by_hand, abs=1e-5)
    for found, wanted in zip(run.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)
    _, info = load_snapshot(tmp_path / "store", "a")
    assert (info.step, info.samples, info.finished) == (4, 64, True)


def test_save_state_and_load_state_take_the_codistiller_along(tmp_path: Path) -> None:
    for name in ("one", "two"):
        leave_a_snapshot(tmp_path / name)
    whole = Run(tmp_path / "one")
    whole.train(batches())
    first = Run(tmp_path / "two")
    first.train(batches()[:4])
    first.accelerator.save_state(str(tmp_path / "saved"))
    first.codistiller.close(publish=False)
    fresh = Run(tmp_path / "two")
    fresh.accelerator.load_state(str(tmp_path / "saved"))
    fresh.train(batches()[4:])
    assert [*first.losses, *fresh.losses] == whole.losses
    report = fresh.codistiller.step()
    assert (report.step, report.teacher_share) == (5, 1.0)
    for run in (whole, fresh):
        run.codistiller.close()


def test_a_teacher_runs_its_own_weights_under_the_student_s_mixed_precision(tmp_path: Path) -> None:
    teacher = leave_a_snapshot(tmp_path / "store")
    run = Run(tmp_path / "store", mixed_precision="bf16")
    inputs, _ = batches()[0]
    run.codistiller.loss(run.model(inputs), inputs)
    (prediction,) = run.codistiller.predict(inputs).peers
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = teacher(inputs).float()
    assert torch.equal(prediction.target.logits, wanted)
    run.codistiller.close(publish=False)


def test_the_example_is_an_unmodified_script_and_ten_lines_at_most() -> None:
    scripts = (HERE / "scripts" / "accelerate_plain.py", EXAMPLE)
    plain, peer = (path.read_text().split('"""\n', maxsplit=2)[-1].splitlines() for path in scripts)
    changed = [line for line in difflib.ndiff(plain, peer) if line[:2] in ("+ ", "- ") and line[2:].strip()]
    assert len(changed) <= 10


@pytest.mark.spawn
def test_a_peer_of_two_ranks_and_one_of_one_teach_each_other(tmp_path: Path) -> None:
    launch = [
        # Several processes on a CPU are --multi_gpu to it, or need mpirun; the environment says which device.
        "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
                   "ACCELERATE_USE_CPU": "true", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # fmt: skip
    jobs = {
        peer: subprocess.Popen(
            [sys.executable, *before, EXAMPLE, "--peer", peer, "--store", tmp_path / "store", "--seed", seed],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for peer, seed, before in (("a", "1", launch), ("b", "2", []))
    }  # fmt: skip
    try:
        printed = {peer: job.communicate(timeout=120) for peer, job in jobs.items()}
    finally:
        for job in jobs.values():
            job.kill()
            job.wait()
    for peer, (out, err) in printed.items():
        assert jobs[peer].returncode == 0, err
        (accuracy,) = re.findall(r"test accuracy (\S+)", out)
        assert float(accuracy) > 0.8
    # 1,500 samples in batches of 16, two of them a step; two ranks go through them twice as fast.
    found = {peer: load_snapshot(tmp_path / "store", peer)[1] for peer in "ab"}
    assert {peer: (info.step, info.finished) for peer, info in found.items()} == {
        "a": (144, True),
        "b": (282, True),
    }
