"""A retraining beside the model it replaces, frozen: to change fewer predictions."""

from dataclasses import replace

from typing_extensions import override

from codistill.lab.methods.base import for_one_model
from codistill.lab.methods.from_finished import FromFinished
from codistill.lab.recipe import Recipe


class FrozenPrevious(FromFinished):
    """Train one model alone, then another beside its frozen copy (Jiang et al. 2021, unverified).

    The previous model is there already where this is used, so that what it cost does not count.
    """

    @classmethod
    @override
    def earlier(cls, recipe: Recipe) -> Recipe:
        return replace(
            for_one_model(recipe),
            method="teachers",
            arm=f"{recipe.label}-previous",
            updates=recipe.teacher_updates or recipe.updates,
            summary="the model that is replaced",
            peers=1,
        )
