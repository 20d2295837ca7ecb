"""What a step tells the training loop."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one optimizer step had of its teachers, and what the exchange has cost so far.

    What concerns the store (``published``, ``publishes_skipped`` and the bytes) is known to rank 0, which
    alone speaks with it; on the other ranks it is False and 0.
    """

    step: int
    """Optimizer steps done."""
    samples: int
    """Samples trained on."""
    weight: float
    """What the distillation loss was multiplied by in this step."""
    weight_factor: float
    """What the weight has been lowered to because the distillation loss diverged; 1.0 if it has not."""
    distillation_loss: Tensor | None
    """Mean of this step's distillation losses, unweighted and detached; None if there was none."""
    teachers: Mapping[str, int]
    """Teachers after this step: peer to age in steps."""
    shares: Mapping[str, float]
    """How much each teacher counts, between 0 and 1: less than 1 once its snapshot is old."""
    quarantined: tuple[str, ...]
    """Teachers that are not run because they were found to be bad."""
    agreement: float | None
    """Share of the positions at which student and teachers chose the same class, mean over teachers, when
    that was last measured: at every 20th step, on the batches of this rank; None before."""
    advice: tuple[str, ...]
    """Sentences, new at this step, on settings that do not help; on every rank, warned of on rank 0."""
    published: bool
    """Whether a snapshot of this peer has become readable since the step before."""
    publishes_skipped: int
    """Intervals at which nothing was published because the store was busy or recovering."""
    fetched: tuple[str, ...]
    """Peers whose new snapshot was taken at this step."""
    teacher_share: float
    """Share of all steps that had a teacher."""
    teacher_samples: int
    """Samples that teachers have predicted on, each teacher counted."""
    bytes_published: int
    """Bytes written to the store by this process, or sent to the other peers."""
    bytes_fetched: int
    """Bytes read from the store by this process, or received from the other peers."""
    stall_s: float
    """Seconds that this process has spent in the exchange, teachers' forwards apart."""
