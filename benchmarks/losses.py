"""What a distillation loss over a large vocabulary costs in time and memory.

    python benchmarks/losses.py [--shape 512x16000:float32 ...] [--arms NAME ...] [--rounds 7] [--json FILE]

Each arm computes a KL from teacher to student and its gradient. Of these the logits are given:

    cross entropy        what the task loss costs: one label a position
    by hand              F.kl_div of log_softmax in float32, as a user would write it
    whole                Divergence("kl"), all positions at once
    codistill            distillation_term
    by hand, 3 teachers  the mean over three
    codistill, 3 teachers
    codistill, top-32    distillation_term with a sparse teacher, 16 of its 32 classes drawn
    sampling             making such a target, without a loss

And of these the last hidden states of student and teacher, with the gradient of the student's head as well:

    head, by hand        both heads, then by hand
    head, codistill      both heads, then distillation_term
    head, Liger          LigerFusedLinearJSDLoss(beta=0), which computes heads in chunks, if installed

Seconds are medians over rounds, in each of which every arm runs once, in an order that changes; those of the
CPU are what counts where other programs use the machine. Memory is how far the peak of resident memory of a
fresh process (VmHWM, on Linux) rises above what it held before.
"""

import argparse
import importlib.util
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codistill.losses import DenseTarget, Divergence, distillation_term, sample_top_k

HIDDEN = 256
KL = Divergence("kl")
Arm = Callable[[], object]


def parse_shape(text: str) -> tuple[int, int, torch.dtype]:
    """Return positions, classes and dtype of such as 512x16000:float32."""
    sizes, _, dtype = text.partition(":")
    positions, _, classes = sizes.partition("x")
    return int(positions), int(classes), getattr(torch, dtype)


def by_hand(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the KL as a user would write it."""
    return F.kl_div(
        F.log_softmax(student.float(), -1),
        F.log_softmax(teacher.float(), -1),
        log_target=True,
        reduction="batchmean",
    )


def given_logits(name: str, shape: str) -> Arm:
    """Return an arm that starts from logits."""
    positions, classes, dtype = parse_shape(shape)
    generator = torch.Generator().manual_seed(0)

    def logits() -> Tensor:
        # In place: freed memory that the process keeps would hide what the loss takes.
        return torch.randn(positions, classes, generator=generator, dtype=dtype).mul_(3)

    student = logits().requires_grad_()
    teachers = [logits() for _ in range(3 if "3 teachers" in name else 1)]

    def sampled() -> object:
        return sample_top_k(teachers[0], k=32, sampled=16, generator=generator)

    if name == "sampling":
        return sampled
    labels = torch.zeros(positions, dtype=torch.int64)
    targets = [sampled()] if "top-32" in name else [DenseTarget(teacher) for teacher in teachers]
    losses: dict[str, Callable[[], Tensor]] = {
        "cross entropy": lambda: F.cross_entropy(student.float(), labels),
        "by hand": lambda: sum(by_hand(student, teacher) for teacher in teachers) / len(teachers),
        "whole": lambda: KL(student, teachers[0]).mean(),
        "codistill": lambda: distillation_term(KL, student, targets),
    }
    loss = losses[name.partition(",")[0]]

    def step() -> None:
        student.grad = None
        loss().backward()

    return step


def given_hidden_states(name: str, shape: str) -> Arm:
    """Return an arm that starts from hidden states."""
    positions, classes, dtype = parse_shape(shape)
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int) -> Tensor:
        return torch.randn(rows, HIDDEN, generator=generator, dtype=dtype).div_(HIDDEN**0.25)

    student, head = matrix(positions).requires_grad_(), matrix(classes).requires_grad_()
    teacher, teacher_head = matrix(positions), matrix(classes)
    if name == "head, Liger":
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        fused = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False, chunk_size=128
        )
        labels = torch.zeros(positions, dtype=torch.int64)

        def loss() -> Tensor:
            return fused(student, head, teacher, teacher_head, labels)

    elif name == "head, codistill":

        def loss() -> Tensor:
            return distillation_term(KL, student @ head.T, [DenseTarget(teacher @ teacher_head.T)])

    else:

        def loss() -> Tensor:
            return by_hand(student @ head.T, teacher @ teacher_head.T)

    def step() -> None:
        student.grad = head.grad = None
        loss().backward()

    return step


ARMS = {
    "cross entropy": given_logits,
    "by hand": given_logits,
    "whole": given_logits,
    "codistill": given_logits,
    "by hand, 3 teachers": given_logits,
    "codistill, 3 teachers": given_logits,
    "codistill, top-32": given_logits,
    "sampling": given_logits,
    "head, by hand": given_hidden_states,
    "head, codistill": given_hidden_states,
    "head, Liger": given_hidden_states,
}


def peak_mib(name: str, shape: str) -> float:
    """Return how many MiB one step of an arm takes beside its inputs, in this fresh process."""
    ARMS[name](name, "8x64:" + shape.partition(":")[2])()  # loads what is loaded at first use
    step = ARMS[name](name, shape)
    Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
    before = resident_mib("VmRSS")
    step()
    return resident_mib("VmHWM") - before


def resident_mib(field: str) -> float:
    """Return what this process holds (VmRSS) or held at most (VmHWM; ru_maxrss is also its parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kib) / 1024


def peak_mib_of_a_process(name: str, shape: str) -> float:
    """Return ``peak_mib`` of a fresh process."""
    command = [sys.executable, __file__, "--peak-of", name, "--shape", shape]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603


def median_seconds(names: list[str], shape: str, rounds: int) -> dict[str, dict[str, float]]:
    """Return the median seconds of each arm's step, of the clock and of the CPU."""
    steps = {name: ARMS[name](name, shape) for name in names}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    order = random.Random(0)
    for round_number in range(rounds + 1):
        for name in order.sample(names, len(names)):
            begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
            steps[name]()
            if round_number > 0:
                seconds[name].append((time.perf_counter() - begin_s, time.process_time() - begin_cpu_s))
    medians = {name: np.median(np.array(values), axis=0) for name, values in seconds.items()}
    return {
        name: {"median_s": float(wall), "median_cpu_s": float(cpu)} for name, (wall, cpu) in medians.items()
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shape", action="append", help="POSITIONSxCLASSES:DTYPE; may be repeated")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--peak-of", choices=ARMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shapes = arguments.shape or ["512x16000:float32", "2048x50257:bfloat16"]
    if arguments.peak_of is not None:
        print(peak_mib(arguments.peak_of, shapes[0]))
        return 0
    names = list(arguments.arms)
    if "head, Liger" in names and importlib.util.find_spec("liger_kernel") is None:
        print("liger-kernel: not installed, left out", file=sys.stderr)
        names.remove("head, Liger")
    load_before = os.getloadavg()[0]
    results = {}
    for shape in shapes:
        seconds = median_seconds(names, shape, arguments.rounds)
        results[shape] = {
            name: {**seconds[name], "peak_mib": peak_mib_of_a_process(name, shape)} for name in names
        }
        print(f"\n{shape:24}{'seconds':>10}{'of CPU':>10}{'peak MiB':>10}")
        for name, row in results[shape].items():
            print(f"{name:24}{row['median_s']:10.3f}{row['median_cpu_s']:10.3f}{row['peak_mib']:10.0f}")
    result = {
        "results": results,
        "rounds": arguments.rounds,
        "hidden": HIDDEN,
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
