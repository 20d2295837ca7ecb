"""What was set up to see whether the papers' claims hold here: one file and one row each."""

import importlib

from codistill.errors import RecipeError
from codistill.lab.experiments.base import Experiment

_EXPERIMENTS = {
    "A5": "a5_disjoint_data",
    "A9": "a9_churn",
    "D1": "d1_mutual_pair",
    "S1-S3": "s1_s3_regularisation",
    "S1-S3-KL": "s1_s3_with_kl",
    "S10": "s10_less_data",
    "S9": "s9_translation",
}
"""Rows of the papers' experiments -> module."""


def names() -> tuple[str, ...]:
    """Return the names of all experiments, sorted."""
    return tuple(sorted(_EXPERIMENTS))


def experiment(name: str) -> Experiment:
    """Return an experiment.

    Args:
        name: One of `names`, or a claim that one of them judges: "S3" is in "S1-S3".

    Raises:
        RecipeError: If there is none; those there are get listed.

    Example:
        >>> experiment("S3").name
        'S1-S3'
    """
    for own, module in _EXPERIMENTS.items():
        if name.upper() in (own, *own.split("-")):
            found: Experiment = importlib.import_module(f"codistill.lab.experiments.{module}").EXPERIMENT
            return found
    raise RecipeError(f"claim must be one of {', '.join(names())}, got {name!r}.")
