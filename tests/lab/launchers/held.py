"""A task whose training is cut off at a known update: once, in whichever peer comes there first.

Where there is a file ``wait-N``, the peer that comes to update N first takes it away, leaves the words of its
process in ``held``, and waits to be ended; where there is ``die-N``, it ends itself as a lost machine would.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from codistill.lab.recipe import Recipe
from codistill.lab.tasks.base import Task, choose_model
from codistill.lab.tasks.samples import Split


class Net(nn.Module):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.folder, self.forwards = folder, 0

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.forwards += 1
            if self._takes("die"):
                os.kill(os.getpid(), signal.SIGKILL)
            if self._takes("wait"):
                self._wait()
        return self.layer(inputs)

    def _takes(self, word: str) -> bool:
        try:
            (self.folder / f"{word}-{self.forwards}").rename(self.folder / "taken")
        except FileNotFoundError:
            return False
        return True

    def _wait(self) -> None:
        (self.folder / "held.new").write_text(json.dumps(sys.argv))
        (self.folder / "held.new").rename(self.folder / "held")
        while True:
            signal.pause()


class Held(Task):
    models = ("net",)

    @classmethod
    def prepare(cls, data_root: Path) -> None:
        pass

    def __init__(self, data_root: Path) -> None:
        self.folder = data_root
        self.classes = 3
        self.train, self.validation = _points(64, seed=0), _points(32, seed=1)

    def test(self) -> Split:
        return _points(32, seed=2)

    def model(self, name: str | None = None, *, width: int | None = None) -> nn.Module:
        choose_model(self, name)
        return Net(self.folder)


def _points(count: int, *, seed: int) -> Split:
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return Split(inputs=inputs, targets=inputs[:, :3].argmax(1))


recipe = Recipe(
    name="held",
    task=f"{__file__}:Held",
    peers=2,
    updates=40,
    batch_size=16,
    interval_steps=5,
    evaluate_every=5,
    checkpoint_every=10,
)
