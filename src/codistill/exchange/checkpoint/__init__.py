"""Exchange of weights through a store: publish one's own, run stale copies of the others'."""

from codistill.exchange.checkpoint.exchange import CheckpointExchange
from codistill.exchange.checkpoint.fetcher import load_snapshot
from codistill.exchange.checkpoint.lockstep import Lockstep
from codistill.exchange.checkpoint.membership import Membership
from codistill.exchange.checkpoint.publisher import SnapshotOptions

__all__ = ["CheckpointExchange", "Lockstep", "Membership", "SnapshotOptions", "load_snapshot"]
