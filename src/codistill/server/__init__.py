"""A server that runs the teachers of students that have no memory for them."""

from codistill.server.answering import Answering
from codistill.server.limits import Limits
from codistill.server.listening import Listening
from codistill.server.prediction_server import PredictionServer

__all__ = ["Answering", "Limits", "Listening", "PredictionServer"]
