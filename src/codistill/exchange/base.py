"""The contract of an exchange, and what passes through it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from codistill.losses.divergences import Divergence
from codistill.losses.targets import Combine, Target
from codistill.parallel.group import PeerRanks
from codistill.schedules import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPrediction:
    """What one peer would predict on this peer's batch."""

    peer: str
    """The peer that the teacher stands in for."""
    target: Target
    """Its prediction; carries no gradient."""
    step: int
    """The peer's optimizer step when it published those weights, or predicted with its own."""
    samples: int
    """Samples it had been trained on by then."""
    sequence: tuple[int, int]
    """(incarnation, sequence) of the snapshot; where predictions are swapped, 0 and how many have been."""
    share: float | Tensor = 1.0
    """How much it counts, between 0 and 1: less than 1 once the snapshot is old, 0 for a prediction that was
    not a number."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What all teachers predict on one batch, in sorted order of their names."""

    peers: tuple[PeerPrediction, ...]
    """One entry a teacher; empty while there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherInfo:
    """Whose weights a teacher holds now, and how old they are."""

    peer: str
    """The peer that it stands in for."""
    incarnation: int
    """Which life of that peer published them."""
    sequence: int
    """Which snapshot of that life."""
    step: int
    """That peer's optimizer step then."""
    samples: int
    """Samples that peer had been trained on then."""
    age_steps: int
    """The student's own steps since it first saw the snapshot."""
    task_loss: float | None
    """That peer's task loss as published."""
    metadata: Mapping[str, Any]
    """What that peer's user attached."""
    share: float = 1.0
    """How much its predictions count, between 0 and 1; at 0 it is not run."""
    is_quarantined: bool = False
    """Whether its share is 0 because it was found to be bad."""
    is_finished: bool = False
    """Whether that peer has finished, so that the snapshot is its last and does not age."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationSettings:
    """What the predictions are for: the student's distillation loss."""

    divergence: Divergence
    """The loss between the student and one teacher."""
    combine: Combine = "losses"
    """How several teachers become one term."""
    weight: Schedule
    """What the term is multiplied by, by optimizer step; without burn-in."""
    burn_in_steps: int = 0
    """First steps in which the weight is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the student has come."""

    step: int = 0
    """Optimizer steps done."""
    samples: int = 0
    """Samples trained on, over all ranks of the peer."""
    task_loss: float | None = None
    """Mean task loss since the last publish, if the user tells it."""
    distillation_loss: float | None = None
    """Distillation loss at the last step, unweighted; None without one."""
    weight: float | None = None
    """What it was multiplied by; None if it is not told."""
    agreement: Mapping[str, float] = field(default_factory=dict)
    """By teacher, the share of the positions at which it and the student chose the same class lately."""
    stall_s: float | None = None
    """Seconds spent in the exchange so far; None if they are not told."""
    advice: tuple[str, ...] = ()
    """What was said of settings that do not help."""


@dataclass(slots=True, kw_only=True)
class ExchangeCounters:
    """What the exchange has cost since this process started."""

    bytes_published: int = 0
    """Bytes written to the store; where predictions are swapped, their bytes, once for each other peer."""
    bytes_fetched: int = 0
    """Bytes read from the store; where predictions are swapped, those of all other peers'."""
    publishes: int = 0
    """Snapshots published."""
    publishes_skipped: int = 0
    """Intervals at which nothing was published, the store being still busy with the snapshot before, or
    given time to recover."""
    fetched: list[str] = field(default_factory=list)
    """Peers whose new snapshot was taken at the last step, in the order it was."""


class Exchange(ABC):
    """How a peer learns what the others would predict.

    A ``Codistiller`` calls ``bind`` once, ``begin`` before the first prediction, then ``predict`` and
    ``step`` in turn, and ``close`` at the end.

    Attributes:
        counters: Bytes and counts so far.
        interval_steps: Optimizer steps between two publishes; 1 where predictions are swapped.
        is_lockstep: Whether peers wait for one another, so that a run is reproducible to the bit.
        is_collective: Whether all peers must call ``predict`` together, once for each loss after burn-in.
    """

    counters: ExchangeCounters
    interval_steps: int
    is_lockstep: bool = False
    is_collective: bool = False

    @abstractmethod
    def bind(
        self,
        model: nn.Module,
        outputs_to_logits: Callable[[Any], Tensor] | None,
        ranks: PeerRanks | None = None,
        settings: DistillationSettings | None = None,
    ) -> None:
        """Meet the student, before anything else.

        Args:
            model: The student, perhaps wrapped.
            outputs_to_logits: Turns what a model returns into logits; None if it returns them.
            ranks: The ranks of this peer; None for the whole world of torch.distributed.
            settings: The student's distillation loss; None if it is not known.

        Raises:
            ValueError: If the exchange belongs to another student already, or cannot serve such a loss.
        """

    def check_logits(self, logits: Tensor) -> None:  # noqa: B027  # most exchanges take whatever the loss does
        """Refuse, at the first loss, what could not be sent to the others after burn-in.

        Args:
            logits: The student's.

        Raises:
            TypeError, ValueError: If it could not.
        """

    @abstractmethod
    def begin(self, progress: Progress) -> None:
        """Claim the peer's name and find the others, at the first loss of this process.

        Raises:
            CodistillError: What hinders the run from starting.
        """

    @abstractmethod
    def predict(self, inputs: Any, logits: Tensor | None) -> Predictions:
        """Return what each teacher predicts on ``inputs``, without gradient.

        Args:
            inputs: A tensor for ``m(x)``, a tuple for ``m(*x)``, a mapping for ``m(**x)``.
            logits: The student's own logits, which some exchanges send to the others.
        """

    @abstractmethod
    def step(self, progress: Progress) -> None:
        """Publish and fetch, where it is time to; once for each optimizer step."""

    @property
    @abstractmethod
    def teachers(self) -> Mapping[str, TeacherInfo]:
        """The teachers in use, by peer."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return numbers, strings, lists and dicts only: what a resumed peer needs to go on."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of an earlier life of this peer, before ``begin``."""

    @abstractmethod
    def close(self, progress: Progress, *, publish: bool, timeout_s: float = 60.0) -> None:
        """End; a second call does nothing.

        Args:
            progress: How far the student came.
            publish: Leave a last snapshot, marked as finished.
            timeout_s: How long that may take, in seconds.
        """


def check_inputs(inputs: Any) -> None:
    """Refuse what no model can be called with.

    Raises:
        TypeError: If it is neither a tensor, a tuple nor a mapping.
    """
    if not isinstance(inputs, Tensor | tuple | Mapping):
        raise TypeError(
            f"inputs must be a tensor, a tuple or a mapping, got {type(inputs).__name__}. "
            "Pass what the model is called with: x for model(x), (x, y) for model(x, y), a dict for "
            "model(**x)."
        )
