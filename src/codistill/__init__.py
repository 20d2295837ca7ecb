"""Codistillation on PyTorch: models that train apart and teach one another."""

from codistill import errors, losses, metrics, schedules, stores, topologies
from codistill.codistiller import Codistiller
from codistill.data import PartitionedSampler
from codistill.errors import CodistillError, CodistillWarning
from codistill.exchange.base import PeerPrediction, Predictions, TeacherInfo
from codistill.exchange.checkpoint import (
    CheckpointExchange,
    Lockstep,
    Membership,
    SnapshotOptions,
    load_snapshot,
)
from codistill.exchange.prediction.codec import TopK
from codistill.exchange.prediction.exchange import PredictionExchange
from codistill.exchange.served.exchange import ServedExchange
from codistill.exchange.teacher_options import TeacherOptions
from codistill.losses import Divergence
from codistill.mutual import mutual_losses
from codistill.snapshots import SnapshotInfo
from codistill.step_report import StepReport
from codistill.version import __version__

__all__ = [
    "CheckpointExchange",
    "CodistillError",
    "CodistillWarning",
    "Codistiller",
    "Divergence",
    "Lockstep",
    "Membership",
    "PartitionedSampler",
    "PeerPrediction",
    "PredictionExchange",
    "Predictions",
    "ServedExchange",
    "SnapshotInfo",
    "SnapshotOptions",
    "StepReport",
    "TeacherInfo",
    "TeacherOptions",
    "TopK",
    "__version__",
    "errors",
    "load_snapshot",
    "losses",
    "metrics",
    "mutual_losses",
    "schedules",
    "stores",
    "topologies",
]
