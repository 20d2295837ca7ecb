"""Whether the distillation loss does harm to a training, or no good: looked at every 20 steps."""

import statistics
from collections.abc import Mapping
from typing import Any, Self, final

import torch
from torch import Tensor

from codistill.advisor import Advisor, Evidence, largest
from codistill.agreement_meter import AgreementMeter
from codistill.caller import warn_caller
from codistill.divergence_guard import DivergenceGuard
from codistill.errors import AdviceWarning
from codistill.exchange.base import Exchange, Predictions
from codistill.losses.divergences import Divergence, soft_cross_entropy
from codistill.parallel.group import PeerRanks
from codistill.snapshots.document import Fields


@final
class Checkup:
    """Lowers the weight of a distillation loss that diverges, and warns of one that does not help.

    **Ranks**: all ranks of the peer, at every step; rank 0 gives the advice.
    **Blocks**: at every 20th step, for the device and for the other ranks.
    **On failure**: a rank that is gone fails the others, as in any collective.
    """

    def __init__(self, exchange: Exchange, divergence: Divergence, ranks: PeerRanks) -> None:
        """Begin with nothing seen.

        Args:
            exchange: Where the teachers come from.
            divergence: The distillation loss.
            ranks: Of this peer.
        """
        self._exchange = exchange
        self._divergence = divergence
        self._ranks = ranks
        self._guard = DivergenceGuard()
        self._meter = AgreementMeter()
        self._advisor = Advisor()
        self._has_warned = False

    @property
    def factor(self) -> float:
        """What to multiply the weight by: 1, halved for each time the term had diverged."""
        return self._guard.factor

    @property
    def agreement(self) -> Mapping[str, float]:
        """What was measured last, by teacher that counts, between 0 and 1; empty before."""
        teachers = self._exchange.teachers
        return {
            peer: share
            for peer, share in self._meter.last.items()
            if peer in teachers and teachers[peer].share > 0.0
        }

    @property
    def mean_agreement(self) -> float | None:
        """The mean over the teachers; None before anything was measured."""
        agreement = self.agreement
        return statistics.fmean(agreement.values()) if agreement else None

    @property
    def advice(self) -> tuple[str, ...]:
        """What held at the last look."""
        return self._advisor.advice

    def see_batch(self, logits: Tensor, predictions: Predictions, mask: Tensor | None, *, step: int) -> None:
        """See a batch of the step after ``step``; arguments as in `AgreementMeter.observe`."""
        self._meter.observe(self._divergence, logits, predictions, mask, step=step)

    def see_step(
        self,
        step: int,
        *,
        weight: float,
        distillation_loss: Tensor | None,
        task_loss: Tensor | float | None,
        optimizer: torch.optim.Optimizer | None,
        has_begun: bool,
    ) -> tuple[str, ...]:
        """See the step that has ended, and every 20 steps look at what was seen; return new advice.

        Args:
            step: Optimizer steps done.
            weight: What the distillation loss was multiplied by.
            distillation_loss: Without the weight, one number; None if there was no teacher.
            task_loss: One number; None if it is not told.
            optimizer: Whose learning rate and weight decay are looked at.
            has_begun: Whether the exchange has, so that all ranks are here.
        """
        term = None if distillation_loss is None or weight == 0.0 else distillation_loss * weight
        self._guard.observe(term, task_loss)
        if not (self._guard.is_due and has_begun):
            return ()
        self._guard_weight(step)
        agreement, divergence, exchange = self._meter.read(), self._divergence, self._exchange
        # Of a diverged one it has been said already; a cross-entropy of equals is their entropy, not 0.
        is_distance = self._guard.factor == 1.0 and divergence.function is not soft_cross_entropy
        advice = self._advisor.look(
            Evidence(
                step=step,
                task_loss=None if task_loss is None else float(task_loss),
                weighted_term=None if term is None or not is_distance else float(term),
                # What is rare, such as a click, is below one half to all models, however they differ.
                agreement={} if divergence.acts_on == "one_logit" else agreement,
                # Without weight nothing is learnt of them.
                teachers=exchange.teachers if weight > 0.0 else {},
                interval_steps=None if exchange.is_collective else exchange.interval_steps,
                learning_rate=None if optimizer is None else largest(optimizer, "lr"),
                weight_decay=None if optimizer is None else largest(optimizer, "weight_decay"),
            )
        )
        if self._ranks.rank == 0:
            for sentence in advice:
                warn_caller(sentence, AdviceWarning)
        return advice

    def state_dict(self) -> dict[str, Any]:
        """Return what it remembers: dicts, lists, strings and numbers."""
        return {"guard": self._guard.state_dict(), "advice": self._advisor.state_dict()}

    def resumed(self, state: Fields) -> Self:
        """Return one that goes on where ``state_dict`` was taken.

        Args:
            state: What ``state_dict`` returned, perhaps among other things; what was saved before there was
                a part of it lacks that.

        Raises:
            ValueError: If a field is not what it should be.
        """
        resumed = type(self)(self._exchange, self._divergence, self._ranks)
        if state.has("guard"):
            resumed._guard = DivergenceGuard.from_fields(state.fields("guard"))
        if state.has("advice"):
            resumed._advisor = Advisor.from_fields(state.fields("advice"))
        return resumed

    def _guard_weight(self, step: int) -> None:
        """Lower the weight if the term has diverged on any rank; in lockstep only say so."""
        (has_diverged,) = self._ranks.maximum([self._guard.has_diverged()])
        if not has_diverged:
            return
        if not self._exchange.is_lockstep:
            self._guard.halve()
        if not self._has_warned:
            self._has_warned = True
            done = "nothing is changed, in lockstep" if self._exchange.is_lockstep else "its weight is halved"
            warn_caller(
                f"The distillation term diverges at step {step}, and the task loss with it: "
                f"{done}. Lower the weight or the learning rate, or begin later with burn_in_steps.",
            )
