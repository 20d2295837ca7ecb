"""Recipes that no test can train: models on the meta device, shapes without numbers, and their losses."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codistill.lab import recipes, tasks
from codistill.lab.methods.codistillation import divergence_of
from codistill.lab.optimizers import make_optimizer
from codistill.lab.recipe import Recipe
from codistill.lab.tasks.base import Task
from codistill.losses import distillation_term
from codistill.losses.targets import DenseTarget

BATCH, POSITIONS = 2, 5
COUNTS = {
    "imagenet": {"classes": 1000},
    "cifar10": {"classes": 10},
    "text_folder": {"classes": 24_006},
    "wmt16": {"classes": 32_000},
    "iwslt14": {"classes": 10_000},
    "criteo": {"classes": 2, "numbers": 26, "categories": 26},
}
"""What each task learns from its data, and its models need to know."""


def _without_data(name: str) -> Task:
    made: Task = type("WithoutData", (tasks.task_class(name),), {"__init__": lambda self: None})()
    for attribute, value in COUNTS[name].items():
        setattr(made, attribute, value)
    return made


def _inputs_and_targets(name: str) -> tuple[tuple[Tensor, ...], Tensor]:
    sentences = torch.ones(BATCH, POSITIONS, dtype=torch.int64)
    labels = torch.ones(BATCH, dtype=torch.int64)
    if name in ("imagenet", "cifar10"):
        side = 224 if name == "imagenet" else 32
        return (torch.zeros(BATCH, 3, side, side),), labels
    if name == "text_folder":
        return (sentences,), sentences
    if name == "criteo":
        return (torch.zeros(BATCH, 26), torch.ones(BATCH, 26, dtype=torch.int64)), labels
    return (sentences, sentences), sentences


def _models_and_widths(recipe: Recipe) -> set[tuple[str | None, int | None]]:
    return {(recipe.model_of(peer), recipe.width_of(peer)) for peer in "ab"[: recipe.peers]}


def _key(recipe: Recipe) -> tuple[Any, ...]:
    fields = (recipe.task, recipe.optimizer, recipe.distillation_loss, recipe.label_smoothing)
    return (*fields, recipe.decays_norms_and_biases, tuple(sorted(map(str, _models_and_widths(recipe)))))


PAPER_RECIPES = [
    recipe
    for entry in recipes.entries()
    if entry.scale == "paper"
    for recipe in (entry.recipe, *entry.points())
]


# Recipes that come to the same in one update are looked at once.
@pytest.mark.parametrize(
    "recipe",
    {_key(recipe): recipe for recipe in PAPER_RECIPES}.values(),
    ids=lambda one: f"{one.name}-{one.arm}",
)
def test_its_models_are_built_and_its_losses_computed(recipe: Recipe) -> None:
    task = _without_data(recipe.task)
    inputs, targets = _inputs_and_targets(recipe.task)
    generator = torch.Generator().manual_seed(0)
    for name, width in _models_and_widths(recipe):
        with torch.device("meta"):
            model: nn.Module = task.model(name, width=width)
        make_optimizer(recipe, model, learning_rate=recipe.learning_rate)
        shape = model(*(one.to("meta") for one in inputs)).shape
        assert shape == (*targets.shape, 1 if recipe.task == "criteo" else COUNTS[recipe.task]["classes"])
        # Losses need numbers; of the shape that the model would return.
        logits = torch.randn(shape, generator=generator).requires_grad_()
        teachers = [DenseTarget(torch.randn(shape, generator=generator))]
        term = distillation_term(
            divergence_of(recipe), logits, teachers, mask=task.mask(targets), combine=recipe.combine
        )
        loss = task.loss(logits, targets, smoothing=recipe.label_smoothing) + term
        loss.backward()
        assert float(loss.detach()) > 0
        assert bool(logits.grad.isfinite().all() and logits.grad.any())


def test_their_tasks_have_their_models() -> None:
    for recipe in PAPER_RECIPES:
        assert {name for name, _ in _models_and_widths(recipe)} <= set(tasks.task_class(recipe.task).models)
