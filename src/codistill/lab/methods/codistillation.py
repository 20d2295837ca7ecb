"""Codistillation: models that train apart and learn from one another's snapshots."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from codistill import metrics
from codistill.codistiller import Codistiller
from codistill.errors import RecipeError
from codistill.exchange.base import Exchange, Predictions
from codistill.exchange.checkpoint import CheckpointExchange, Membership, SnapshotOptions
from codistill.exchange.teacher_options import TeacherOptions
from codistill.lab import course
from codistill.lab.methods.base import Build, Costs, Lessons, Method, Place
from codistill.lab.recipe import Recipe
from codistill.lab.tasks.samples import Inputs
from codistill.losses import Divergence, validate_combine
from codistill.losses.targets import DenseTarget, distillation_term
from codistill.snapshots.info import SnapshotInfo
from codistill.step_report import StepReport
from codistill.topologies import Directed, Topology, as_topology

T = TypeVar("T")


class Codistillation(Method):
    """Train ``peers`` models, each paying for disagreeing with the others (Sodhani et al., Algorithm 1)."""

    uses_store: ClassVar[bool] = True
    has_interval: ClassVar[bool] = True

    def __init__(self, recipe: Recipe, place: Place) -> None:
        super().__init__(recipe, place)
        self._codistiller: Codistiller | None = None
        self._report: StepReport | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._advice: tuple[str, ...] = ()
        # The student's logits, its teachers' predictions and the mask of the last batch.
        self._last: tuple[Tensor, Predictions, Tensor | None] | None = None
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
            validate_combine(divergence_of(recipe), recipe.combine)
        except ValueError as e:
            raise RecipeError(f"{e} It is set in recipe {recipe.name!r}.") from e
        return recipe.peers, recipe.ranks_per_peer or 1

    @classmethod
    @override
    def adapt(cls, recipe: Recipe) -> Recipe:
        return replace(recipe, peers=max(recipe.peers, 2))

    @override
    def wrap(self, model: nn.Module, build: Build | None = None, *, epoch_steps: int = 1) -> nn.Module:
        recipe = self._recipe
        wrapped = super().wrap(model, build, epoch_steps=epoch_steps)
        self._codistiller = Codistiller(
            wrapped,
            self._exchange(build),
            distillation_loss=divergence_of(recipe),
            weight=course.distillation_weight(recipe, epoch_steps=epoch_steps),
            burn_in_steps=recipe.burn_in_steps,
            combine=recipe.combine,
            group=self.group,
        )
        return wrapped

    @override
    def wrap_optimizer(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
        self._optimizer = super().wrap_optimizer(optimizer, model)
        return self._optimizer

    def _exchange(self, build: Build | None) -> Exchange:
        """Return how the peers learn from one another."""
        recipe, others = self._recipe, len(self._plan.peers) - 1
        peer = self._place.peer
        return CheckpointExchange(
            self._place.exchange,
            peer=peer,
            peers=list(self._plan.peers),
            interval_steps=recipe.interval_steps,
            topology=_topology(recipe),
            lockstep=recipe.lockstep,
            snapshots=SnapshotOptions(
                codec=recipe.codec,
                metadata={"model": recipe.model_of(peer), "width": recipe.width_of(peer)},
            ),
            teachers=teacher_options(build, others),
            # Runs may last seconds: the first peer to start would be done before the last is there.
            membership=Membership(
                start_with_peers=0 if recipe.lockstep else others, rejoin=self._place.comes_back
            ),
        )

    @override
    def loss(self, logits: Tensor, inputs: Inputs, *, mask: Tensor | None = None) -> Tensor | None:
        codistiller = self._wrapped()
        predictions = codistiller.predict(inputs, logits=logits)
        self._last = logits.detach(), predictions, mask
        return codistiller.loss(logits, predictions, mask=mask)

    @override
    def lessons(self) -> Lessons:
        if self._last is None or self._report is None:
            return Lessons()
        logits, predictions, mask = self._last
        divergence = divergence_of(self._recipe)
        losses, agreements = {}, {}
        with torch.no_grad():
            for prediction in predictions.peers:
                term = distillation_term(divergence, logits, [prediction.target], mask=mask)
                losses[prediction.peer] = float(term)
                if isinstance(prediction.target, DenseTarget):
                    agreements[prediction.peer] = _agreement(logits, prediction.target.logits, mask)
        ages = dict(self._report.teachers)
        return Lessons(
            losses=self._by_name(losses), agreements=self._by_name(agreements), ages=self._by_name(ages)
        )

    def _by_name(self, values: dict[str, T]) -> dict[str, T]:
        """Return values by the names of the recipe's peers."""
        return values

    @override
    def step(self, *, task_loss: Tensor, samples: int) -> Tensor | None:
        super().step(task_loss=task_loss, samples=samples)
        self._report = self._wrapped().step(task_loss=task_loss, samples=samples, optimizer=self._optimizer)
        self._advice += self._report.advice
        if self._report.quarantined:
            self._quarantined_updates += 1
            self._first_quarantine = self._first_quarantine or self._report.step
        step, recipe = self._report.step, self._recipe
        if step % recipe.evaluate_every and step != recipe.updates:
            # Only looked at in an evaluation; kept on, logits would take their memory a second time.
            self._last = None
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
            advice=earlier.advice + self._advice,
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


def divergence_of(recipe: Recipe) -> Divergence:
    """Return how a recipe measures disagreement."""
    return Divergence(recipe.distillation_loss, temperature=recipe.temperature)


def teacher_options(build: Build | None, teachers: int) -> TeacherOptions:
    """Return how teachers are made: each of the model and width that its peer has published.

    Args:
        build: Makes a model; None if all are like the student.
        teachers: How many there are.
    """
    return TeacherOptions(
        build=None if build is None else lambda info: build(*_model_of(info)), max_teachers=teachers
    )


def _model_of(info: SnapshotInfo) -> tuple[str | None, int | None]:
    return info.metadata.get("model"), info.metadata.get("width")


def _agreement(logits: Tensor, others: Tensor, mask: Tensor | None) -> float:
    """Return the share of the positions that count at which two models find the same class likeliest."""
    pair = [
        scores[mask] if mask is not None else scores.reshape(-1, scores.shape[-1])
        for scores in (logits, others)
    ]
    if logits.shape[-1] == 1:
        pair = [scores.squeeze(-1) for scores in pair]
    return metrics.agreement(*pair) if len(pair[0]) else math.nan
