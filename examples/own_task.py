"""A task and a recipe of your own, in one file.

    codistill train examples/own_task.py:recipe

The task brings its data, two spirals that wind around each other, and a small network. Every field of the
recipe is an option, as with the library's own: codistill train examples/own_task.py:recipe --help
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from codistill.lab.recipe import Recipe
from codistill.lab.tasks.base import Task, choose_model
from codistill.lab.tasks.samples import Split


class Spirals(Task):
    """Points of two spirals, class 0 or 1, not quite where they should be."""

    models = ("mlp",)

    @classmethod
    def prepare(cls, data_root: Path) -> None:
        """Do nothing: there is no file to look for, and nothing to decode."""

    def __init__(self, data_root: Path) -> None:  # noqa: ARG002 - there is nothing to read
        """Make training and validation data."""
        self.classes = 2
        self.train = spirals(400, seed=0)
        self.validation = spirals(1000, seed=1)

    def test(self) -> Split:
        """Return the test data."""
        return spirals(5000, seed=2)

    def model(self, name: str | None = None, *, width: int | None = None) -> nn.Module:
        """Return a new network; its initial weights come from torch's global generator."""
        choose_model(self, name)
        width = 64 if width is None else width
        return nn.Sequential(
            nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
        )


def spirals(count: int, *, seed: int) -> Split:
    """Return points [count, 2] and their classes, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % 2
    # Both wind one and a half times around the origin, half a turn apart.
    radius = torch.rand(count, generator=generator).sqrt()
    angle = 3 * torch.pi * radius + torch.pi * classes
    points: Tensor = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return Split(inputs=points + 0.05 * torch.randn(points.shape, generator=generator), targets=classes)


recipe = Recipe(
    name="own_task",
    summary="Two small networks on two spirals; seconds.",
    task=f"{__file__}:Spirals",
    peers=2,
    updates=400,
    batch_size=128,
    optimizer="adam",
    learning_rate=0.02,
    weight_decay=0.0,
    interval_steps=20,
    evaluate_every=100,
)
