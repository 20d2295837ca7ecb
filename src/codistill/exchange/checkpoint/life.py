"""One life of a peer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What all snapshots that a peer publishes in one life have in common."""

    run_id: str
    """Id of the run."""
    peer: str
    """The peer's name."""
    incarnation: int
    """Which life of the peer, from 0."""
    interval_steps: int
    """Steps between two publishes."""
    metadata: Mapping[str, Any]
    """What the user attaches."""
