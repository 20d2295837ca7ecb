"""Codistillation on PyTorch: models that train apart and teach one another."""

import importlib
from typing import TYPE_CHECKING, Any

from codistill.version import __version__

if TYPE_CHECKING:
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

# Names are looked up when they are first used (PEP 562), so that the command line can show its help without
# loading PyTorch. A test holds this table to the imports above.
_HOMES = {
    "CheckpointExchange": "exchange.checkpoint",
    "CodistillError": "errors",
    "CodistillWarning": "errors",
    "Codistiller": "codistiller",
    "Divergence": "losses",
    "Lockstep": "exchange.checkpoint",
    "Membership": "exchange.checkpoint",
    "PartitionedSampler": "data",
    "PeerPrediction": "exchange.base",
    "PredictionExchange": "exchange.prediction.exchange",
    "Predictions": "exchange.base",
    "ServedExchange": "exchange.served.exchange",
    "SnapshotInfo": "snapshots",
    "SnapshotOptions": "exchange.checkpoint",
    "StepReport": "step_report",
    "TeacherInfo": "exchange.base",
    "TeacherOptions": "exchange.teacher_options",
    "TopK": "exchange.prediction.codec",
    "load_snapshot": "exchange.checkpoint",
    "mutual_losses": "mutual",
}
_MODULES = frozenset({"errors", "losses", "metrics", "schedules", "stores", "topologies"})


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    # From now on it is found without this function.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
