"""Learning rates that follow from the size of the batch, as fields of a recipe."""

import math
from typing import Literal, TypedDict

from codistill.lab.recipes.epochs import Epochs


class Course(TypedDict):
    """Fields of a recipe: how long it trains, and its learning rate."""

    updates: int
    learning_rate: float
    learning_rate_course: Literal["step", "cosine", "linear"]
    warmup_steps: int
    warmup_from: float
    learning_rate_drops: tuple[float, ...]


def goyal2017(
    run: Epochs,
    *,
    samples: int,
    updates: int | None = None,
    rate: float = 0.1,
    reference: int = 256,
    course: Literal["step", "cosine"] = "step",
) -> Course:
    """Return the course of Goyal et al. (2017, section 2): linear scaling, gradual warm-up, steps.

    The learning rate rises from ``rate``, whatever the batch, to ``rate * batch / reference``; from the start
    where that is lower.

    Args:
        run: How one model trains.
        samples: Of the training data.
        updates: Make so many in place of the epochs'; warm-up and drops keep their share of the run.
        rate: Learning rate of a batch of ``reference``.
        reference: Samples an update that ``rate`` is for.
        course: Whether it falls at drops, or along a cosine.

    Example:
        >>> run = Epochs(batch_size=512, epochs=90, warmup=5, drops=(30, 60, 80))
        >>> course = goyal2017(run, samples=1_281_167)
        >>> course["updates"], course["learning_rate"], course["warmup_steps"], course["warmup_from"]
        (225205, 0.2, 12511, 0.5)
    """
    updates = run.updates(samples) if updates is None else updates
    return Course(
        updates=updates,
        learning_rate=rate * run.batch_size / reference,
        learning_rate_course=course,
        warmup_steps=int(updates * run.warmup / run.epochs),
        warmup_from=min(1.0, reference / run.batch_size),
        learning_rate_drops=tuple(drop / run.epochs for drop in run.drops),
    )


def legw(run: Epochs, *, samples: int, updates: int | None = None) -> Course:
    """Return the course of SC20's ImageNet command: square root scaling, linear-epoch warm-up, linear to 0.

    The learning rate rises from 0 to 2.828 * sqrt(batch / 256) within 0.078125 * batch / 256 epochs (You et
    al. 2019, with Murai et al.'s constants), then falls in a straight line.

    Args:
        run: How one model trains; its own warm-up and drops are ignored.
        samples: Of the training data.
        updates: Make so many in place of the epochs'; the warm-up keeps its share of the run.
    """
    updates = run.updates(samples) if updates is None else updates
    warmup = 0.078125 * run.batch_size / 256
    return Course(
        updates=updates,
        learning_rate=2.0**1.5 * math.sqrt(run.batch_size / 256),
        learning_rate_course="linear",
        warmup_steps=min(updates, round(updates * warmup / run.epochs)),
        warmup_from=0.0,
        learning_rate_drops=(),
    )
