"""Synchronous SGD: one model, gradients averaged over its ranks at every step."""

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from codistill.lab.methods.base import Build, Costs, Method, Place
from codistill.lab.recipe import Recipe


class AllReduce(Method):
    """Train one model on ``ranks`` processes with `DistributedDataParallel`.

    Needs the default process group, which the program of the rank makes. A single rank trains without it.
    """

    def __init__(self, recipe: Recipe, place: Place) -> None:
        super().__init__(recipe, place)
        self._bytes_a_step = 0
        self._steps = 0

    @classmethod
    @override
    def _jobs(cls, recipe: Recipe) -> tuple[int, int]:
        return 1, recipe.ranks

    @override
    def wrap(self, model: nn.Module, build: Build | None = None) -> nn.Module:
        ranks = self._plan.ranks
        if ranks == 1:
            return model
        gradient_bytes = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        # A ring all-reduce sends every byte twice, less the share that each rank keeps; gloo's is one.
        self._bytes_a_step = 2 * (ranks - 1) * gradient_bytes // ranks
        return DistributedDataParallel(model)

    @override
    def step(self, *, task_loss: Tensor, samples: int) -> Tensor | None:
        self._steps += 1
        return None

    @override
    def mean_over_ranks(self, value: Tensor) -> Tensor:
        if self._plan.ranks == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self._plan.ranks

    @override
    def costs(self) -> Costs:
        return Costs(bytes_all_reduced=self._steps * self._bytes_a_step)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps = int(state["steps"])
