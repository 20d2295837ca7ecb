"""Distillation in two phases: teachers are trained to the end, then a student learns from them."""

from dataclasses import replace
from typing import ClassVar

from typing_extensions import override

from codistill.lab.methods.from_finished import FromFinished
from codistill.lab.recipe import Recipe


class TwoPhase(FromFinished):
    """Train ``peers`` teachers first, in an arm of their own, then one student beside their frozen copies.

    Hinton et al. 2015; Anil et al. 2018 hold codistillation against it, which needs fewer updates in all.
    The teachers' updates and samples count as the method's.
    """

    counts_earlier: ClassVar[bool] = True

    @classmethod
    @override
    def earlier(cls, recipe: Recipe) -> Recipe:
        return replace(
            recipe,
            method="teachers",
            arm=f"{recipe.label}-teachers",
            updates=recipe.teacher_updates or recipe.updates,
            summary="the first phase: teachers that never meet",
            ranks_per_peer=None,
        )
