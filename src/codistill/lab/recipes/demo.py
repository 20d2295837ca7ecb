"""The arms of the demo: digits with noisy labels, trained with and without codistillation.

Every arm trains for the same number of updates; its learning rate and weight decay are those that the
search of `codistill.lab.search` chose on the validation set, read from ``demo_grid.json`` beside this file.
"""

import importlib.resources
import json
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


def arms() -> tuple[Recipe, ...]:
    """Return the arms with the learning rate and weight decay that the search chose."""
    chosen = {entry["arm"]: entry["chosen"] for entry in grid()["arms"]}
    return tuple(
        replace(
            arm,
            learning_rate=chosen[arm.label]["learning_rate"],
            weight_decay=chosen[arm.label]["weight_decay"],
        )
        for arm in ARMS
    )


def grid() -> dict[str, Any]:
    """Return the record of the search: every point, the rule, what was chosen, and with what it ran."""
    text = importlib.resources.files(__package__).joinpath(GRID).read_text(encoding="utf-8")
    return dict(json.loads(text))
