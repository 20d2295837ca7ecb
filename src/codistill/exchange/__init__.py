"""The ways a peer learns what the others would predict."""

from codistill.exchange.base import (
    Exchange,
    ExchangeCounters,
    PeerPrediction,
    Predictions,
    Progress,
    TeacherInfo,
)
from codistill.exchange.teacher_options import TeacherOptions

__all__ = [
    "Exchange",
    "ExchangeCounters",
    "PeerPrediction",
    "Predictions",
    "Progress",
    "TeacherInfo",
    "TeacherOptions",
]
