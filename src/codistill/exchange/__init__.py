"""The ways a peer learns what the others would predict."""

from codistill.exchange.base import (
    Exchange,
    ExchangeCounters,
    PeerPrediction,
    Predictions,
    Progress,
    TeacherInfo,
)
from codistill.exchange.teachers import TeacherOptions

__all__ = [
    "Exchange",
    "ExchangeCounters",
    "PeerPrediction",
    "Predictions",
    "Progress",
    "TeacherInfo",
    "TeacherOptions",
]
