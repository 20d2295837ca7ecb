"""Warnings that point to the line of the user's that they are about."""

import sys
import warnings
from typing import Final

from codistill.errors import CodistillWarning

# Trainers stand between this library and a script, and so does what they call us through.
_NOT_THE_CALLER: Final = frozenset({"codistill", "lightning", "transformers", "accelerate", "torch"})


def warn_caller(message: str, category: type[CodistillWarning] = CodistillWarning) -> None:
    """Warn, and point to the innermost line that is neither of this library nor of a trainer.

    Args:
        message: What to say.
        category: Of which kind.
    """
    depth, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_library(frame.f_globals.get("__name__", "")):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, category, stacklevel=depth)


def _is_library(module: str) -> bool:
    return module.partition(".")[0] in _NOT_THE_CALLER
