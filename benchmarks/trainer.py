"""What the laboratory's trainer costs a step beside forward, backward, optimizer and data.

    python benchmarks/trainer.py

ResNet-20 on made-up photographs of CIFAR-10's size at batch 128, augmented as CIFAR-10's are. Forward with
its loss, backward, optimizer step and the drawing of a batch are timed where they happen; the rest of an
update is the trainer's own. Printed are medians over updates, and their quartiles.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codistill.lab.methods.base import Place
from codistill.lab.recipe import Recipe
from codistill.lab.tasks.images.cifar10 import MEAN, STANDARD_DEVIATION, Cifar10
from codistill.lab.tasks.images.normalisation import Normalisation
from codistill.lab.tasks.samples import Split
from codistill.lab.trainer import Trainer


class MadeUpPhotographs(Cifar10):
    """CIFAR-10's task on noise."""

    def __init__(self) -> None:
        self._normalise = Normalisation(MEAN, STANDARD_DEVIATION)
        self.classes = 10
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (2048, 3, 32, 32), generator=generator, dtype=torch.uint8)
        split = Split(
            inputs=pixels.contiguous(memory_format=torch.channels_last),
            targets=torch.randint(0, 10, (2048,), generator=generator),
        )
        self.train = self.validation = split


@dataclass
class Stopwatch:
    """Adds up the seconds of calls that it wraps."""

    seconds: float = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same, timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def measure(*, updates: int, batch_size: int, model: str, folder: Path) -> dict[str, Any]:
    """Train for some updates; return milliseconds of each part and the trainer's share."""
    recipe = Recipe(
        name="overhead",
        task="cifar10",
        model=model,
        method="alone",
        peers=1,
        updates=updates,
        batch_size=batch_size,
        evaluate_every=updates,
    )
    trainer = Trainer(
        recipe,
        task=MadeUpPhotographs(),
        place=Place(peer="a", exchange=folder / "exchange"),
        folder=folder / "a",
        device=torch.device("cpu"),
    )
    parts = {name: Stopwatch() for name in ("data", "forward", "backward", "optimizer")}
    (student,) = trainer._students
    trainer._batches.draw = parts["data"].around(trainer._batches.draw)
    student.forward = parts["forward"].around(student.forward)
    student.optimizer.step = parts["optimizer"].around(student.optimizer.step)
    backward = torch.Tensor.backward
    torch.Tensor.backward = parts["backward"].around(backward)
    rows = []
    try:
        for _ in range(updates):
            before = {name: part.seconds for name, part in parts.items()}
            began = time.perf_counter()
            trainer._update()
            whole = time.perf_counter() - began
            rows.append(
                {name: part.seconds - before[name] for name, part in parts.items()} | {"whole": whole}
            )
    finally:
        torch.Tensor.backward = backward
    rows = rows[len(rows) // 10 :]
    shares = [1 - sum(row[name] for name in parts) / row["whole"] for row in rows]
    return {
        "model": model,
        "batch_size": batch_size,
        "updates": len(rows),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "ms": {name: 1000 * statistics.median(row[name] for row in rows) for name in (*parts, "whole")},
        "trainer_share": statistics.median(shares),
        "quartiles": statistics.quantiles(shares, n=4)[::2],
    }


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--model", default="resnet20", choices=Cifar10.models)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(
            updates=options.updates, batch_size=options.batch_size, model=options.model, folder=Path(folder)
        )
    low, high = found["quartiles"]
    parts = ", ".join(f"{name} {value:.1f} ms" for name, value in found["ms"].items())
    print(f"{found['model']}, batch {found['batch_size']}: {parts}")
    print(f"the trainer's own share: {found['trainer_share']:.2%} (quartiles {low:.2%} to {high:.2%})")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
