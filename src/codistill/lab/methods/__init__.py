"""The ways of training that an experiment compares: one file and one row here each.

Nothing is imported before it is asked for, so that the names can be listed without loading PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, cast

from codistill.errors import RecipeError

if TYPE_CHECKING:
    from codistill.lab.methods.base import Method

_METHODS = {
    "all_reduce": "AllReduce",
    "alone": "Alone",
    "codistillation": "Codistillation",
    "codistillation_disjoint": "CodistillationDisjoint",
    "codistillation_predictions": "CodistillationPredictions",
    "codistillation_same_data": "CodistillationSameData",
    "diloco": "DiLoCo",
    "ensemble": "Ensemble",
    "frozen_previous": "FrozenPrevious",
    "label_smoothing": "LabelSmoothing",
    "local_sgd": "LocalSGD",
    "mutual": "Mutual",
    "teachers": "Teachers",
    "two_phase": "TwoPhase",
    "unigram_smoothing": "UnigramSmoothing",
}
"""Name, which is that of the module too -> class."""


def names() -> tuple[str, ...]:
    """Return the names of all methods, sorted."""
    return tuple(sorted(_METHODS))


def method(name: str) -> "type[Method]":
    """Return the class of a method.

    Raises:
        RecipeError: If there is no such method.
    """
    if name not in _METHODS:
        raise RecipeError(f"method must be one of {', '.join(names())}, got {name!r}.")
    module = importlib.import_module(f"codistill.lab.methods.{name}")
    return cast("type[Method]", getattr(module, _METHODS[name]))
