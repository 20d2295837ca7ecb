"""Codistillation: models that train apart and learn from one another's snapshots."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from codistill.codistiller import Codistiller
from codistill.errors import RecipeError
from codistill.exchange.checkpoint import CheckpointExchange
from codistill.exchange.teachers import TeacherOptions
from codistill.lab.methods.base import Costs, Method, Place
from codistill.lab.recipe import Recipe
from codistill.losses import Divergence, validate_combine
from codistill.step_report import StepReport


class Codistillation(Method):
    """Train ``peers`` models, each paying for disagreeing with the others (Sodhani et al., Algorithm 1)."""

    def __init__(self, recipe: Recipe, place: Place) -> None:
        super().__init__(recipe, place)
        self._codistiller: Codistiller | None = None
        self._report: StepReport | None = None
        self._earlier = Costs()

    @classmethod
    @override
    def _jobs(cls, recipe: Recipe) -> tuple[int, int]:
        if recipe.peers < 2:
            raise RecipeError(
                f"peers must be >= 2 to codistill, got {recipe.peers}. "
                f'Change it, or set method="alone", in recipe {recipe.name!r}.'
            )
        try:
            validate_combine(_divergence(recipe), recipe.combine)
        except ValueError as e:
            raise RecipeError(f"{e} It is set in recipe {recipe.name!r}.") from e
        return recipe.peers, 1

    @override
    def wrap(self, model: nn.Module) -> nn.Module:
        recipe = self._recipe
        exchange = CheckpointExchange(
            self._place.exchange,
            peer=self._place.peer,
            peers=list(self._plan.peers),
            interval_steps=recipe.interval_steps,
            topology=recipe.topology,
            lockstep=recipe.lockstep,
            teachers=TeacherOptions(max_teachers=len(self._plan.peers) - 1),
        )
        self._codistiller = Codistiller(
            model,
            exchange,
            distillation_loss=_divergence(recipe),
            weight=recipe.distillation_weight,
            burn_in_steps=recipe.burn_in_steps,
            combine=recipe.combine,
        )
        return model

    @override
    def loss(self, logits: Tensor, inputs: Tensor) -> Tensor | None:
        return self._wrapped().loss(logits, inputs)

    @override
    def step(self, *, task_loss: Tensor, samples: int) -> Tensor | None:
        self._report = self._wrapped().step(task_loss=task_loss, samples=samples)
        return self._report.distillation_loss

    @override
    def costs(self) -> Costs:
        report, earlier = self._report, self._earlier
        if report is None:
            return earlier
        return Costs(
            stall_s=earlier.stall_s + report.stall_s,
            bytes_published=earlier.bytes_published + report.bytes_published,
            bytes_fetched=earlier.bytes_fetched + report.bytes_fetched,
            teacher_share=report.teacher_share,
            teacher_samples=report.teacher_samples,
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"codistiller": self._wrapped().state_dict(), "costs": dataclasses.asdict(self.costs())}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._wrapped().load_state_dict(state["codistiller"])
        self._earlier = Costs(**state["costs"])

    @override
    def close(self) -> None:
        self._wrapped().close()

    def _wrapped(self) -> Codistiller:
        assert self._codistiller is not None, "wrap() comes first"
        return self._codistiller


def _divergence(recipe: Recipe) -> Divergence:
    return Divergence(recipe.distillation_loss, temperature=recipe.temperature)
