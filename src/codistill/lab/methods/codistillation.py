"""Codistillation: models that train apart and learn from one another's snapshots."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from codistill.codistiller import Codistiller
from codistill.errors import RecipeError
from codistill.exchange.checkpoint import CheckpointExchange, Membership, SnapshotOptions
from codistill.exchange.teacher_options import TeacherOptions
from codistill.lab.methods.base import Build, Costs, Method, Place
from codistill.lab.recipe import Recipe
from codistill.losses import Divergence, validate_combine
from codistill.step_report import StepReport
from codistill.topologies import Directed, Topology, as_topology


class Codistillation(Method):
    """Train ``peers`` models, each paying for disagreeing with the others (Sodhani et al., Algorithm 1)."""

    uses_store: ClassVar[bool] = True

    def __init__(self, recipe: Recipe, place: Place) -> None:
        super().__init__(recipe, place)
        self._codistiller: Codistiller | None = None
        self._report: StepReport | None = None
        self._earlier = Costs()
        self._quarantined_updates = 0
        self._first_quarantine: int | None = None

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
        return recipe.peers, recipe.ranks_per_peer or 1

    @override
    def wrap(self, model: nn.Module, build: Build | None = None) -> nn.Module:
        recipe, others = self._recipe, len(self._plan.peers) - 1
        wrapped = super().wrap(model, build)
        exchange = CheckpointExchange(
            self._place.exchange,
            peer=self._place.peer,
            peers=list(self._plan.peers),
            interval_steps=recipe.interval_steps,
            topology=_topology(recipe),
            lockstep=recipe.lockstep,
            snapshots=SnapshotOptions(metadata={"width": recipe.width_of(self._place.peer)}),
            teachers=TeacherOptions(
                build=None if build is None else lambda info: build(info.metadata.get("width")),
                max_teachers=others,
            ),
            # Runs may last seconds: the first peer to start would be done before the last is there.
            membership=None if recipe.lockstep else Membership(start_with_peers=others),
        )
        self._codistiller = Codistiller(
            wrapped,
            exchange,
            distillation_loss=_divergence(recipe),
            weight=recipe.distillation_weight,
            burn_in_steps=recipe.burn_in_steps,
            combine=recipe.combine,
        )
        return wrapped

    @override
    def loss(self, logits: Tensor, inputs: Tensor) -> Tensor | None:
        return self._wrapped().loss(logits, inputs)

    @override
    def step(self, *, task_loss: Tensor, samples: int) -> Tensor | None:
        super().step(task_loss=task_loss, samples=samples)
        self._report = self._wrapped().step(task_loss=task_loss, samples=samples)
        if self._report.quarantined:
            self._quarantined_updates += 1
            self._first_quarantine = self._first_quarantine or self._report.step
        return self._report.distillation_loss

    @override
    def costs(self) -> Costs:
        report, earlier = self._report, self._earlier
        if report is None:
            return earlier
        return Costs(
            bytes_all_reduced=earlier.bytes_all_reduced + super().costs().bytes_all_reduced,
            stall_s=earlier.stall_s + report.stall_s,
            bytes_published=earlier.bytes_published + report.bytes_published,
            bytes_fetched=earlier.bytes_fetched + report.bytes_fetched,
            teacher_share=report.teacher_share if self._is_student else None,
            teacher_samples=report.teacher_samples,
            publishes_skipped=earlier.publishes_skipped + report.publishes_skipped,
            weight_factor=report.weight_factor,
            quarantined=report.quarantined,
            quarantined_updates=self._quarantined_updates,
            first_quarantine=self._first_quarantine,
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"codistiller": self._wrapped().state_dict(), "costs": dataclasses.asdict(self.costs())}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._wrapped().load_state_dict(state["codistiller"])
        self._earlier = earlier = Costs(**state["costs"])
        self._quarantined_updates = earlier.quarantined_updates
        self._first_quarantine = earlier.first_quarantine

    @override
    def close(self) -> None:
        self._wrapped().close()

    @property
    def _is_student(self) -> bool:
        """Whether this peer is to learn from any other."""
        return bool(as_topology(_topology(self._recipe)).teachers(self._plan.peers)[self._place.peer])

    def _wrapped(self) -> Codistiller:
        assert self._codistiller is not None, "wrap() comes first"
        return self._codistiller


def _topology(recipe: Recipe) -> str | Topology:
    return Directed(recipe.teacher_pairs()) if recipe.topology == "directed" else recipe.topology


def _divergence(recipe: Recipe) -> Divergence:
    return Divergence(recipe.distillation_loss, temperature=recipe.temperature)
