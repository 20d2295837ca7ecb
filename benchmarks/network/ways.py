"""The ways of training on two hosts that are compared."""

from collections.abc import Mapping
from dataclasses import dataclass

from codistill.exchange.prediction.codec import PredictionCodec

PATIENCE_S = 300.0
"""How long a rank waits for another, unless told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """No exchange: what a step takes by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllReduce:
    """One job of two ranks, which average their gradients (``DistributedDataParallel`` on gloo)."""

    timeout_s: float = PATIENCE_S
    """How long a rank waits for the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Two peers that swap predictions on gloo."""

    codec: str | PredictionCodec
    """How they travel."""
    timeout_s: float = PATIENCE_S
    """How long a peer waits for the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Two peers that swap snapshots through a store on host a."""

    codec: str
    """How they travel."""
    interval_steps: int
    """Steps between two publishes."""
    store: str
    """Its URL."""
    environment: Mapping[str, str]
    """What its client needs to know."""


Way = Alone | AllReduce | Predictions | Checkpoints
