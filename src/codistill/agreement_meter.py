"""On how much of a batch a student and its teachers choose the same class."""

from collections.abc import Mapping
from typing import Final, final

import torch
from torch import Tensor

from codistill.exchange.base import Predictions
from codistill.losses.divergences import Divergence
from codistill.losses.sparse import SparseTarget
from codistill.losses.targets import Target

MEASURED_EVERY_STEPS: Final = 20


@final
class AgreementMeter:
    """Measures the agreement of a student with each of its teachers, at every 20th step.

    Agreement is the share of the positions that count at which both find the same class likeliest; of one
    logit, at which both are above 0 or both are not. Of the batches of this rank.

    **Ranks**: each measures what it sees.
    **Blocks**: ``observe`` never; ``read`` waits for the device, where something was measured.
    **On failure**: nothing here fails.
    """

    def __init__(self) -> None:
        self._found: dict[str, Tensor] = {}
        self._last: dict[str, float] = {}

    @property
    def last(self) -> Mapping[str, float]:
        """What was read last, by teacher, between 0 and 1; empty before."""
        return self._last

    def observe(
        self,
        divergence: Divergence,
        logits: Tensor,
        predictions: Predictions,
        mask: Tensor | None,
        *,
        step: int,
    ) -> None:
        """Measure a batch, if it is of a step at which that is due.

        Args:
            divergence: Says where the classes are.
            logits: The student's, [batch, ..., classes], or one logit a position.
            predictions: The teachers'.
            mask: Boolean, which positions count; None for all.
            step: Optimizer steps done before the one that this batch is for.
        """
        if (step + 1) % MEASURED_EVERY_STEPS:
            return
        with torch.no_grad():
            for prediction in predictions.peers:
                # Without weight nothing has held shapes against one another.
                if prediction.target.logits_shape(divergence.class_dim) != logits.shape:
                    continue
                found = _same_and_all(divergence, logits, prediction.target, mask)
                known = self._found.get(prediction.peer)
                self._found[prediction.peer] = found if known is None else known.to(found) + found

    def read(self) -> Mapping[str, float]:
        """Turn what was measured at the step that has ended into numbers, and return them, by teacher."""
        if not self._found:
            return {}
        counts = {peer: found.tolist() for peer, found in self._found.items()}
        self._found = {}
        self._last = {peer: same / positions for peer, (same, positions) in counts.items() if positions}
        return self._last


def _same_and_all(divergence: Divergence, logits: Tensor, target: Target, mask: Tensor | None) -> Tensor:
    """Return at how many positions the two choose the same class, and how many count: [2]."""
    is_same = _choices(divergence, logits) == _target_choices(divergence, target)
    counts = torch.ones_like(is_same) if mask is None else mask.expand_as(is_same)
    return torch.stack([(is_same & counts).sum(), counts.sum()])


def _target_choices(divergence: Divergence, target: Target) -> Tensor:
    if isinstance(target, SparseTarget):
        largest = target.weights.argmax(dim=-1, keepdim=True)
        return target.classes.gather(-1, largest).squeeze(-1)
    return _choices(divergence, target.logits)


def _choices(divergence: Divergence, logits: Tensor) -> Tensor:
    if divergence.acts_on == "one_logit":
        return logits > 0
    if logits.shape[divergence.class_dim] == 1:
        return logits.squeeze(divergence.class_dim) > 0
    return logits.argmax(dim=divergence.class_dim)
