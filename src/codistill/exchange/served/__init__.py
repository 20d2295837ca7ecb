"""Predictions from a server: a student without room for teachers asks for them."""

from codistill.exchange.served.exchange import ServedExchange

__all__ = ["ServedExchange"]
