"""What a step tells the training loop."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one optimizer step had of its teachers, and what the exchange has cost so far."""

    step: int
    """Optimizer steps done."""
    samples: int
    """Samples trained on."""
    weight: float
    """What the distillation loss was multiplied by in this step."""
    distillation_loss: Tensor | None
    """Mean of this step's distillation losses, unweighted and detached; None if there was none."""
    teachers: Mapping[str, int]
    """Teachers after this step: peer to age in steps."""
    published: bool
    """Whether this step published a snapshot."""
    fetched: tuple[str, ...]
    """Peers whose new snapshot was taken at this step."""
    teacher_share: float
    """Share of all steps that had a teacher."""
    teacher_samples: int
    """Samples that teachers have predicted on, each teacher counted."""
    bytes_published: int
    """Bytes written to the store by this process."""
    bytes_fetched: int
    """Bytes read from the store by this process."""
    stall_s: float
    """Seconds that this process has spent in the exchange, teachers' forwards apart."""
