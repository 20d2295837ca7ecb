"""Deep mutual learning: all peers in one process, on one batch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from codistill.errors import RecipeError
from codistill.lab import course
from codistill.lab.methods.base import Arrangement, Build, Costs, Method, Place
from codistill.lab.methods.codistillation import divergence_of
from codistill.lab.recipe import Recipe
from codistill.losses import validate_combine
from codistill.mutual import mutual_losses


class Mutual(Method):
    """Train ``peers`` models on the same batches, each learning from all others (Zhang et al. 2018).

    One forward a model: the students' own train-mode outputs are the targets. All peers learn from what all
    had before the update; the paper updates them one after another. Each peer sees ``batch_size / peers``
    samples an update, as under every other method.
    """

    has_interval: ClassVar[bool] = False

    def __init__(self, recipe: Recipe, place: Place) -> None:
        super().__init__(recipe, place)
        self._weight = course.distillation_weight(recipe, epoch_steps=1)
        self._distillation: Tensor | None = None
        self._taught_steps = 0

    @classmethod
    @override
    def adapt(cls, recipe: Recipe) -> Recipe:
        return replace(
            recipe,
            peers=max(recipe.peers, 2),
            regime="same_batches",
            topology="all",
            edges=(),
            ranks_per_peer=None,
        )

    @classmethod
    @override
    def _jobs(cls, recipe: Recipe) -> tuple[int, int]:
        if recipe.peers < 2 or recipe.regime != "same_batches" or recipe.topology != "all":
            raise RecipeError(
                f"peers must be >= 2, regime 'same_batches' and topology 'all' under {recipe.method!r}, "
                f"got {recipe.peers}, {recipe.regime!r} and {recipe.topology!r}. "
                f"Change them in recipe {recipe.name!r}."
            )
        try:
            validate_combine(divergence_of(recipe), recipe.combine)
        except ValueError as e:
            raise RecipeError(f"{e} It is set in recipe {recipe.name!r}.") from e
        return recipe.peers, 1

    @classmethod
    @override
    def _arrangement(cls) -> Arrangement:
        return "one_process"

    @override
    def wrap(self, model: nn.Module, build: Build | None = None, *, epoch_steps: int = 1) -> nn.Module:
        self._weight = course.distillation_weight(self._recipe, epoch_steps=epoch_steps)
        return super().wrap(model, build, epoch_steps=epoch_steps)

    @override
    def losses(
        self, logits: Sequence[Tensor], inputs: object, *, mask: Tensor | None = None
    ) -> Sequence[Tensor | None]:
        recipe = self._recipe
        weight = 0.0 if self._steps < recipe.burn_in_steps else self._weight(self._steps)
        self._distillation = None
        if weight == 0.0:
            return [None] * len(logits)
        terms = mutual_losses(
            logits, distillation_loss=divergence_of(recipe), combine=recipe.combine, mask=mask
        )
        self._distillation = torch.stack([term.detach() for term in terms])
        return [weight * term for term in terms]

    @override
    def step(self, *, task_loss: Tensor, samples: int) -> Tensor | None:
        super().step(task_loss=task_loss, samples=samples)
        self._taught_steps += self._distillation is not None
        return self._distillation

    @override
    def costs(self) -> Costs:
        return Costs(teacher_share=self._taught_steps / self._steps if self._steps else None)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "taught_steps": self._taught_steps}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._taught_steps = int(state["taught_steps"])
