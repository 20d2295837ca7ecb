"""DiLoCo: ranks train apart, and an outer optimizer follows the mean of how far they came."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from codistill.lab.methods.averaged import Averaged
from codistill.lab.methods.base import Place
from codistill.lab.recipe import Recipe


class DiLoCo(Averaged):
    """One model; every ``interval_steps`` an outer Nesterov step (Douillard et al. 2023, Algorithm 1).

    The outer gradient is where all ranks began minus the mean of where they are. torchft has DiLoCo too, but
    only for jobs under its manager and lighthouse; this is the algorithm with torch's own SGD.
    """

    def __init__(self, recipe: Recipe, place: Place) -> None:
        super().__init__(recipe, place)
        self._parameters: list[nn.Parameter] = []
        self._outer: torch.optim.SGD | None = None

    @override
    def wrap_optimizer(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
        self._parameters = list(model.parameters())
        self._outer = torch.optim.SGD(
            [nn.Parameter(p.detach().clone()) for p in self._parameters],
            lr=self._recipe.outer_learning_rate,
            momentum=self._recipe.outer_momentum,
            nesterov=self._recipe.outer_momentum > 0,
        )
        return optimizer

    @override
    def step(self, *, task_loss: Tensor, samples: int) -> Tensor | None:
        taught = super().step(task_loss=task_loss, samples=samples)
        if self._is_averaging_due:
            self._outer_step()
        return taught

    @override
    def state_dict(self) -> dict[str, Any]:
        outer = self._wrapped()
        shared = [p.detach().clone() for p in outer.param_groups[0]["params"]]
        return {**super().state_dict(), "outer": outer.state_dict(), "shared": shared}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        outer = self._wrapped()
        outer.load_state_dict(state["outer"])
        with torch.no_grad():
            for own, shared in zip(outer.param_groups[0]["params"], state["shared"], strict=True):
                own.copy_(shared)

    def _outer_step(self) -> None:
        outer = self._wrapped()
        self._average([p.detach() for p in self._parameters])
        with torch.no_grad():
            for shared, own in zip(outer.param_groups[0]["params"], self._parameters, strict=True):
                shared.grad = shared - own
            outer.step()
            for shared, own in zip(outer.param_groups[0]["params"], self._parameters, strict=True):
                own.copy_(shared)

    def _wrapped(self) -> torch.optim.SGD:
        assert self._outer is not None, "wrap_optimizer() comes first"
        return self._outer
