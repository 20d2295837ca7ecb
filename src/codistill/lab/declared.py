"""What a results folder is judged by: the task's metric, and the claims that were declared for it."""

from collections.abc import Sequence
from typing import Literal

from codistill.errors import RecipeError
from codistill.lab import claims, tasks
from codistill.lab.claims import Claim
from codistill.lab.folder import RunFolder
from codistill.lab.recipe import Recipe
from codistill.lab.recipes import demo
from codistill.lab.recipes.demo_claims import DEMO_CLAIMS

Judge = Literal["accuracy", "nll"]


def judged_by(arms: Sequence[Recipe]) -> Judge:
    """Return the metric of the task of the first arm.

    Accuracy if the task is in a user's own file and that is gone: results outlive it.
    """
    try:
        return tasks.task_class(arms[0].task).metric
    except RecipeError:
        return "accuracy"


def declared_claims(folder: RunFolder) -> tuple[Claim, ...]:
    """Return what a results folder claims: what was written into it, or the demo's, or `default_claims`.

    Raises:
        OSError: If the file with the claims cannot be read.
        ValueError: If it is malformed; the claim and field are named.
    """
    written = claims.read_claims(folder.path)
    if written is not None:
        return written
    if all(arm.name == demo.ARMS[0].name for arm in folder.arms):
        return DEMO_CLAIMS
    return default_claims(folder)


def default_claims(folder: RunFolder) -> tuple[Claim, ...]:
    """Return the claims of a comparison that declares none: every arm against the first one.

    On the task's metric and on churn, no direction expected.
    """
    first, *others = folder.arms
    return tuple(
        Claim(
            arm=arm.label,
            against=first.label,
            metric=metric,
            says="against the first arm; no direction expected",
        )
        for metric in (f"test_{judged_by(folder.arms)}", "churn")
        for arm in others
    )
