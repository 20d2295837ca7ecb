"""What is shown of a run: what the peers tell, and what the watcher adds by its own clock."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PeerState = Literal["running", "waiting", "silent", "finished", "left", "unreadable", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """One peer. What it does not tell, and what the watcher cannot know yet, is None or empty."""

    peer: str
    """Its name."""
    state: PeerState
    """``running``: it says so; ``waiting``: it says so, and that it does not train on before others have done
    something; ``silent``: it said either, and its heartbeat stands still; ``finished`` and ``left``: as it
    says itself; ``unreadable``: its status cannot be read, and all else is what was read
    last; ``unknown``: it has told nothing yet."""
    is_confirmed: bool
    """Whether the watcher has seen its heartbeat move, in this life of the peer. A peer that died before
    the watcher came says ``running`` or ``waiting`` until it has been watched for long enough."""
    silent_s: float | None
    """How long the heartbeat has stood still while it was watched, in seconds; None if not ``silent``."""
    waits_for: str | None
    """What it waits for; None if not ``waiting``. May be printed."""
    incarnation: int | None
    """Which life of the peer."""
    sequence: int | None
    """Which snapshot of its life is the newest."""
    step: int | None
    """Optimizer steps taken, as far as told: peers tell it at their intervals."""
    steps_per_s: float | None
    """Steps a second between the changes of ``step`` that the watcher has seen; None before it saw two."""
    samples: int | None
    """Samples consumed, over all ranks of the peer."""
    task_loss: float | None
    """Latest task loss."""
    task_losses: tuple[float, ...]
    """All that were seen of it, as at most 60 means."""
    distillation_loss: float | None
    """Latest distillation loss D, unweighted."""
    distillation_losses: tuple[float, ...]
    """All that were seen of it, as at most 60 means."""
    agreement: Mapping[str, float]
    """Teacher to share of positions at which it and the student choose the same class, 0 to 1."""
    weight: float | None
    """What D is multiplied by."""
    teachers: Mapping[str, int | None]
    """Teacher to the age of its snapshot, in the student's own steps; None if it is not told."""
    stall_share: float | None
    """Share of this life's training that went by in the exchange, 0 to 1."""
    quarantined: tuple[str, ...]
    """Teachers that it does not learn from, as they have gone bad."""
    advice: tuple[str, ...]
    """Sentences of advice that it gives; may be printed."""
    problems: tuple[str, ...]
    """What cannot be read of it, and why; may be printed."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to find out by watching on: it has ended, or is seen to live or not to."""
        return self.is_confirmed or self.state not in ("running", "waiting")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A run."""

    store: str
    """Where it is; may be printed."""
    run_id: str | None
    """Its id; None before the store has been read."""
    watched_s: float
    """How long it has been watched, in seconds."""
    away_s: float | None
    """How long the store has not been read though it was tried, in seconds; None if it is there. All peers
    are then as they were."""
    came_back: int
    """How often the store was away and came back."""
    problems: tuple[str, ...]
    """What is wrong with the store or the run as a whole; may be printed."""
    peers: tuple[PeerView, ...]
    """By name."""
