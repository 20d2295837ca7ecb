"""The arms of the demo: digits with noisy labels, trained with and without codistillation.

Every arm trains for the same number of updates; its learning rate and weight decay are those that the
search of `codistill.lab.search` chose on the validation set, read from ``demo_grid.json`` beside this file,
for itself or, as `SETTINGS_OF` says, for another arm.
"""

import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from codistill.lab.recipe import Recipe

GRID = "demo_grid.json"

_PLAIN = Recipe(
    name="demo",
    task="digits",
    method="all_reduce",
    peers=1,
    ranks=2,
    updates=1500,
    batch_size=64,
    learning_rate_drops=(0.5, 0.75),
    interval_steps=10,
    evaluate_every=50,
)

ARMS: tuple[Recipe, ...] = (
    replace(
        _PLAIN,
        arm="all_reduce",
        summary="one model, all data, 64 samples an update: what synchronous SGD gives",
    ),
    replace(
        _PLAIN,
        arm="all_reduce_smoothing",
        label_smoothing=0.1,
        summary="the same with label smoothing 0.1: the cheapest regulariser",
    ),
    replace(
        _PLAIN,
        arm="codistillation_2",
        method="codistillation",
        peers=2,
        summary="two peers, the same data and samples an update, no all-reduce",
    ),
    replace(
        _PLAIN,
        arm="codistillation_2_free",
        method="codistillation",
        peers=2,
        lockstep=False,
        summary="two peers that wait for nobody; settings of codistillation_2, not tuned itself",
    ),
    replace(
        _PLAIN,
        arm="codistillation_4",
        method="codistillation",
        peers=4,
        summary="four peers of 16 samples each: the same with smaller batches",
    ),
    replace(
        _PLAIN,
        arm="half_alone",
        method="alone",
        batch_size=32,
        regime="disjoint",
        parts=2,
        summary="one model that sees half the data",
    ),
    replace(
        _PLAIN,
        arm="codistillation_halves",
        method="codistillation",
        peers=2,
        regime="disjoint",
        summary="two peers, each sees another half: does knowledge travel through predictions?",
    ),
    replace(
        _PLAIN,
        arm="alone_2",
        method="alone",
        peers=2,
        summary="two models that never meet; with their ensemble, the price to beat",
    ),
)
"""The arms in the order of the table, learning rate and weight decay not yet chosen."""

SETTINGS_OF: Mapping[str, str] = {"codistillation_2_free": "codistillation_2"}
"""Arm that is not tuned itself -> the arm whose settings it has."""

SEARCHED: tuple[Recipe, ...] = tuple(arm for arm in ARMS if arm.label not in SETTINGS_OF)
"""The arms that are tuned."""


def arms() -> tuple[Recipe, ...]:
    """Return the arms with the learning rate and weight decay that the search chose."""
    searched = grid()
    tuned = []
    for arm in ARMS:
        settings = chosen(arm.label, searched)
        assert settings is not None, f"{GRID} must hold arm {arm.label!r}"
        tuned.append(replace(arm, **settings))
    return tuple(tuned)


def chosen(arm: str, searched: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the learning rate and weight decay of an arm, None if none were chosen for it.

    Args:
        arm: Label of the arm.
        searched: The record of the search.
    """
    for entry in searched["arms"]:
        if entry["arm"] == SETTINGS_OF.get(arm, arm):
            return {field: entry["chosen"][field] for field in ("learning_rate", "weight_decay")}
    return None


def grid() -> dict[str, Any]:
    """Return the record of the search: every point, the rule, what was chosen, and with what it ran."""
    text = importlib.resources.files(__package__).joinpath(GRID).read_text(encoding="utf-8")
    return dict(json.loads(text))
