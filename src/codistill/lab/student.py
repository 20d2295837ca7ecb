"""One model in training, on one rank."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codistill import metrics, schedules
from codistill.lab import course
from codistill.lab.methods.base import Method, Plan
from codistill.lab.optimizers import make_optimizer
from codistill.lab.peer_names import MOST_PEERS
from codistill.lab.recipe import Recipe
from codistill.lab.running_losses import RunningLosses
from codistill.lab.tasks.base import Task
from codistill.lab.tasks.samples import Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A batch that went through a model."""

    inputs: Inputs
    """What the model was called with."""
    logits: Tensor
    """What it returned."""
    task_loss: Tensor
    """0-d, with gradient."""
    mask: Tensor | None
    """Where a position counts; None for everywhere."""


class Student:
    """The model of one peer with its optimizer.

    Args:
        recipe: What to train.
        task: Its task, loaded.
        peer: Name of the peer.
        plan: What the recipe becomes under its method.
        folder: Where its results go.
        device: Where the model lives.
        prior: How label smoothing spreads labels; None for evenly.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        task: Task,
        peer: str,
        plan: Plan,
        folder: Path,
        device: torch.device,
        prior: Tensor | None,
    ) -> None:
        self._recipe, self._task, self._device, self._prior = recipe, task, device, prior
        self.peer, self.folder = peer, folder
        torch.manual_seed(recipe.seed * MOST_PEERS + plan.number_of(peer))
        self.model = self.build(recipe.model_of(peer), recipe.width_of(peer))
        self._initial = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.wrapped: nn.Module = self.model
        self.optimizer = make_optimizer(recipe, self.model, learning_rate=recipe.learning_rate_of(peer))
        self.learning_rate = course.learning_rate(recipe, peer)
        self.weight_decay = course.weight_decay(recipe)
        # Groups that were built without weight decay have none to set.
        self._decays = recipe.weight_decay > 0
        self.losses = RunningLosses(device)

    def build(self, model: str | None, width: int | None) -> nn.Module:
        """Return a new model of some name and width, on the device of this process."""
        return self._task.model(model, width=width).to(self._device)

    def wrap(self, method: Method, *, epoch_steps: int) -> None:
        """Let a method wrap model and optimizer."""
        self.wrapped = method.wrap(self.model, self.build, epoch_steps=epoch_steps)
        self.optimizer = method.wrap_optimizer(self.optimizer, self.model)

    def forward(self, inputs: Inputs, targets: Tensor) -> Pass:
        """Run a batch through the model.

        Args:
            inputs: Ready for the model.
            targets: The right answers.
        """
        logits = self.wrapped(*inputs) if isinstance(inputs, tuple) else self.wrapped(inputs)
        task_loss = self._task.loss(
            logits, targets, smoothing=self._recipe.label_smoothing, prior=self._prior
        )
        return Pass(inputs=inputs, logits=logits, task_loss=task_loss, mask=self._task.mask(targets))

    def update(self, loss: Tensor, *, step: int) -> None:
        """Make one optimizer step.

        Args:
            loss: 0-d, with gradient.
            step: Updates made before.
        """
        schedules.apply(
            self.optimizer,
            step=step,
            lr=self.learning_rate,
            weight_decay=self.weight_decay if self._decays else None,
        )
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        if self._recipe.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._recipe.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def distance(self) -> float:
        """Return how far the weights are from where they began."""
        return metrics.distance_from_initialisation(dict(self.model.named_parameters()), self._initial)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, running losses apart: those differ between ranks."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
