"""What methods share that train one model on ranks which drift apart between averagings."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from codistill.errors import RecipeError
from codistill.lab.methods.base import Build, Costs, Method, for_one_model
from codistill.lab.recipe import Recipe


class Averaged(Method):
    """One model on ``ranks_per_peer`` (or ``ranks``) processes that average it every ``interval_steps``.

    What is evaluated is the mean of the ranks' models, running statistics too, whenever that is. Each rank
    draws batches of its own and keeps its own state of the optimizer.
    """

    ranks_differ: ClassVar[bool] = True
    has_interval: ClassVar[bool] = True

    @classmethod
    @override
    def adapt(cls, recipe: Recipe) -> Recipe:
        return for_one_model(recipe)

    @classmethod
    @override
    def _jobs(cls, recipe: Recipe) -> tuple[int, int]:
        every = recipe.checkpoint_every
        if every is not None and every % recipe.interval_steps:
            raise RecipeError(
                f"checkpoint_every must be a multiple of interval_steps, {recipe.interval_steps}, under "
                f"{recipe.method!r}, got {every}. Change it in recipe {recipe.name!r}."
            )
        return 1, recipe.ranks_per_peer or recipe.ranks

    @override
    def wrap(self, model: nn.Module, build: Build | None = None, *, epoch_steps: int = 1) -> nn.Module:
        parameter_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        ranks = self._plan.ranks
        # Of a ring, as for gradients.
        self._bytes_an_averaging = 2 * (ranks - 1) * parameter_bytes // ranks
        return model

    @override
    @contextmanager
    def evaluated(self, model: nn.Module) -> Iterator[None]:
        own = [tensor.clone() for tensor in _averaged_tensors(model)]
        self._average(_averaged_tensors(model))
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, before in zip(_averaged_tensors(model), own, strict=True):
                    tensor.copy_(before)

    @override
    def costs(self) -> Costs:
        averagings = self._steps // self._recipe.interval_steps
        return Costs(bytes_all_reduced=averagings * self._bytes_an_averaging)

    def _average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their means over the ranks."""
        if self._plan.ranks == 1:
            return
        with torch.no_grad():
            for tensor in tensors:
                dist.all_reduce(tensor, group=self.group)
                tensor /= self._plan.ranks

    @property
    def _is_averaging_due(self) -> bool:
        return self._steps % self._recipe.interval_steps == 0

    @abstractmethod
    @override
    def wrap_optimizer(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer: ...


def _averaged_tensors(model: nn.Module) -> list[Tensor]:
    """Return what has a mean: parameters, and buffers that are no counters."""
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    return [tensor.detach() for tensor in tensors]
