"""Checks of arguments that many functions share, with errors of one form."""

import math
from typing import Any


def check_int(argument: str, value: object, *, minimum: int, maximum: int | None = None, hint: str) -> int:
    """Return ``value`` if it is an int within its limits; True and False are none.

    Args:
        argument: What to call it in the error.
        value: What the caller was given.
        minimum: The least it may be.
        maximum: The most it may be; None for no limit.
        hint: What to do instead, a sentence.

    Raises:
        TypeError: If it is no int.
        ValueError: If it is outside its limits.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an int, got {value!r}. {hint}")
    if value < minimum or (maximum is not None and value > maximum):
        rule = f">= {minimum}" if maximum is None else f"between {minimum} and {maximum}"
        raise ValueError(f"{argument} must be {rule}, got {value}. {hint}")
    return value


def check_seconds(argument: str, value: object, *, hint: str) -> float:
    """Return ``value`` if it is a number of seconds > 0.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not > 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument} must be a number of seconds, got {value!r}. {hint}")
    if math.isnan(value) or value <= 0:
        raise ValueError(f"{argument} must be > 0, got {value}. {hint}")
    return float(value)


def check_type(argument: str, value: object, kind: type[Any]) -> None:
    """Raise TypeError unless ``value`` is of a class, which the error shows how to make."""
    if not isinstance(value, kind):
        raise TypeError(f"{argument} must be {kind.__name__}(...), got {value!r}.")
