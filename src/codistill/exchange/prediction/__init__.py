"""Exchange of predictions: all peers see one batch and swap what they make of it."""

from codistill.exchange.prediction.codec import TopK
from codistill.exchange.prediction.exchange import PredictionExchange

__all__ = ["PredictionExchange", "TopK"]
