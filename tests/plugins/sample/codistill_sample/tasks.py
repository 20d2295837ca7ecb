"""A task: data, models and metric of the laboratory."""

from pathlib import Path

import torch
from torch import nn

from codistill.lab.tasks.base import Task, choose_model
from codistill.lab.tasks.samples import Split


class Blobs(Task):
    """Points around three corners of a triangle; which corner is the class."""

    models = ("mlp",)

    @classmethod
    def prepare(cls, data_root: Path) -> None:
        """Do nothing: there is no file to look for, and nothing to decode."""

    def __init__(self, data_root: Path) -> None:
        self.classes = 3
        self.train, self.validation = blobs(300, seed=0), blobs(300, seed=1)

    def test(self) -> Split:
        return blobs(300, seed=2)

    def model(self, name: str | None = None, *, width: int | None = None) -> nn.Module:
        choose_model(self, name)
        width = 16 if width is None else width
        return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 3))


def blobs(count: int, *, seed: int) -> Split:
    """Return points [count, 2] and their classes, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % 3
    corners = torch.tensor([[0.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    points = corners[classes] + 0.5 * torch.randn(count, 2, generator=generator)
    return Split(inputs=points, targets=classes)
