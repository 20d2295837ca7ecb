"""Which optimizer a recipe asks for, over which groups of parameters."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from codistill.extras import require
from codistill.lab.recipe import Recipe

_ADAM_BETAS = (0.9, 0.98)
"""Those of Vaswani et al. 2017, section 5.3."""
_LARS_ETA = 0.001
"""Trust coefficient of You et al. 2017, and of Murai et al. 2020."""


def make_optimizer(recipe: Recipe, model: nn.Module, *, learning_rate: float) -> torch.optim.Optimizer:
    """Return the optimizer of a model.

    Args:
        recipe: Names it, with momentum and weight decay.
        model: The parameters.
        learning_rate: At the start.

    Raises:
        ExtraMissingError: If the package that holds LARS is not installed.
    """
    groups = _groups(recipe, model)
    rate: dict[str, Any] = {"lr": learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer in ("sgd", "nesterov"):
        nesterov = recipe.optimizer == "nesterov"
        return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=nesterov, **rate)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, betas=_ADAM_BETAS, **rate)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=_ADAM_BETAS, **rate)
    if recipe.optimizer == "adagrad":
        return torch.optim.Adagrad(groups, **rate)
    lars: Any = require("pytorch_optimizer.optimizer.lars", "lab").LARS
    optimizer: torch.optim.Optimizer = lars(
        groups, momentum=recipe.momentum, trust_coefficient=_LARS_ETA, **rate
    )
    return optimizer


def _groups(recipe: Recipe, model: nn.Module) -> Iterable[Any]:
    """Return the parameters, those that do not decay in a group of their own."""
    if recipe.decays_norms_and_biases or recipe.weight_decay == 0:
        return model.parameters()
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1]},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
