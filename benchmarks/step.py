"""What a training step costs with one resident teacher, beside plain training and beside its floor.

    python benchmarks/step.py [--out result.json]

Four loops train the same ResNet-8 on batches of 32 x 32 images; in each round every loop makes one step,
in an order that changes from round to round, so that what disturbs the machine disturbs all alike:

    plain        training alone
    floor        plain and one forward of a second model under no_grad: the least that any distillation costs
    by hand      student and frozen teacher, the loss written out: what a user would write without a library
    codistill    a peer of a CheckpointExchange with one teacher

What counts is the ratio of two loops in one round. Rounds go on until the 95% bootstrap interval of the
median ratio codistill / floor is narrow enough. Exits 1 if the median is above the limit, or if the interval
stays too wide.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codistill import CheckpointExchange, Codistiller
from codistill.lab.tasks.images.resnet import ResNet

LIMIT = 1.05
WIDEST_INTERVAL = 0.05
FEWEST_ROUNDS = 200
MOST_ROUNDS = 2000
WARM_UP_ROUNDS = 10

Step = Callable[[Tensor, Tensor], None]


def new_model(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a ResNet-8 and its optimizer."""
    torch.manual_seed(seed)
    model = ResNet(10, depth=8)
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)


def plain() -> Step:
    """Return a step of training alone."""
    model, optimizer = new_model(0)

    def step(inputs: Tensor, targets: Tensor) -> None:
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def floor() -> Step:
    """Return a step of training with an idle forward of a second model."""
    model, optimizer = new_model(0)
    second = new_model(1)[0].eval().requires_grad_(False)

    def step(inputs: Tensor, targets: Tensor) -> None:
        logits = model(inputs)
        with torch.no_grad():
            second(inputs)
        F.cross_entropy(logits, targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def by_hand() -> Step:
    """Return a step of distillation from a frozen model, written out."""
    model, optimizer = new_model(0)
    teacher = new_model(1)[0].eval().requires_grad_(False)

    def step(inputs: Tensor, targets: Tensor) -> None:
        logits = model(inputs)
        with torch.no_grad():
            soft = F.log_softmax(teacher(inputs), 1)
        kl = F.kl_div(F.log_softmax(logits, 1), soft, reduction="batchmean", log_target=True)
        (F.cross_entropy(logits, targets) + kl).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def codistill(store: Path, interval_steps: int) -> Step:
    """Return a step of a peer with one teacher."""
    # The other peer publishes once and goes on no more: its snapshot is the resident teacher.
    other, _ = new_model(1)
    images = torch.zeros(2, 3, 32, 32)
    with Codistiller(other, CheckpointExchange(store, peer="b", interval_steps=1)) as publisher:
        publisher.loss(other(images), images)
        publisher.step()
    model, optimizer = new_model(0)
    codistiller = Codistiller(model, CheckpointExchange(store, peer="a", interval_steps=interval_steps))

    def step(inputs: Tensor, targets: Tensor) -> None:
        logits = model(inputs)
        task_loss = F.cross_entropy(logits, targets)
        (task_loss + codistiller.loss(logits, inputs)).backward()
        optimizer.step()
        optimizer.zero_grad()
        report = codistiller.step(task_loss=task_loss.detach())
        assert list(report.teachers) == ["b"]

    return step


def interval_of_median(ratios: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the median."""
    medians = np.median(rng.choice(ratios, size=(2000, len(ratios))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(low), float(high)


def measure(
    loops: dict[str, Step], *, batch_size: int, fewest_rounds: int, most_rounds: int
) -> dict[str, np.ndarray]:
    """Return the seconds of every step, a row a loop."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    names = list(loops)
    for round_number in range(WARM_UP_ROUNDS + most_rounds):
        inputs = torch.randn(batch_size, 3, 32, 32, generator=generator)
        targets = torch.randint(10, (batch_size,), generator=generator)
        rng.shuffle(names)
        for name in names:
            begin_s = time.perf_counter()
            loops[name](inputs, targets)
            if round_number >= WARM_UP_ROUNDS:
                seconds[name].append(time.perf_counter() - begin_s)
        rounds = len(seconds["plain"])
        if rounds >= fewest_rounds and rounds % 50 == 0:
            ratios = np.array(seconds["codistill"]) / np.array(seconds["floor"])
            low, high = interval_of_median(ratios, rng)
            print(f"{rounds} rounds, load {os.getloadavg()[0]:.2f}", file=sys.stderr)
            if high - low <= WIDEST_INTERVAL:
                break
    return {name: np.array(values) for name, values in seconds.items()}


def main() -> int:
    """Measure, print, and tell whether the limit holds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--interval-steps", type=int, default=50)
    parser.add_argument("--fewest-rounds", type=int, default=FEWEST_ROUNDS)
    parser.add_argument("--most-rounds", type=int, default=MOST_ROUNDS)
    parser.add_argument("--out", type=Path, help="also write the result here, as JSON")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        loops = {
            "plain": plain(),
            "floor": floor(),
            "by hand": by_hand(),
            "codistill": codistill(Path(folder), arguments.interval_steps),
        }
        seconds = measure(
            loops,
            batch_size=arguments.batch_size,
            fewest_rounds=arguments.fewest_rounds,
            most_rounds=arguments.most_rounds,
        )
    rng = np.random.default_rng(0)
    ratios = {}
    for a, b in [("codistill", "floor"), ("by hand", "floor"), ("codistill", "plain"), ("floor", "plain")]:
        values = seconds[a] / seconds[b]
        low, high = interval_of_median(values, rng)
        mean = float(seconds[a].mean() / seconds[b].mean())
        ratios[f"{a} / {b}"] = {
            "median": float(np.median(values)),
            "low": low,
            "high": high,
            "of means": mean,
        }
    result = {
        "rounds": len(seconds["plain"]),
        "batch_size": arguments.batch_size,
        "interval_steps": arguments.interval_steps,
        "median_step_s": {name: float(np.median(values)) for name, values in seconds.items()},
        "ratios": ratios,
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    for name, value in result["median_step_s"].items():
        print(f"{name:10} {value * 1000:8.2f} ms a step (median of {result['rounds']})")
    for name, ratio in ratios.items():
        print(
            f"{name:18} {ratio['median']:.3f}  95% [{ratio['low']:.3f}, {ratio['high']:.3f}]"
            f"   of means {ratio['of means']:.3f}"
        )
    print(
        f"load {load_before:.2f} before, {result['load_after']:.2f} after; "
        f"{result['threads']} threads on {result['cpu_count']} cores"
    )
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    judged = ratios["codistill / floor"]
    if judged["high"] - judged["low"] > WIDEST_INTERVAL:
        print(f"the interval of codistill / floor is wider than {WIDEST_INTERVAL}", file=sys.stderr)
        return 1
    if judged["median"] > LIMIT:
        print(f"codistill / floor is above {LIMIT}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
