"""One model whose labels are spread evenly over the classes: the cheapest regulariser."""

from dataclasses import replace
from typing import Literal

from typing_extensions import override

from codistill.errors import RecipeError
from codistill.lab.methods.all_reduce import AllReduce
from codistill.lab.recipe import Recipe

Prior = Literal["uniform", "unigram"]

_USUAL = 0.1


class LabelSmoothing(AllReduce):
    """Synchronous SGD with label smoothing (Szegedy et al. 2016), a baseline of Anil et al. 2018."""

    @classmethod
    @override
    def adapt(cls, recipe: Recipe) -> Recipe:
        return replace(
            super().adapt(recipe),
            label_smoothing=recipe.label_smoothing or _USUAL,
            smoothing_prior=cls._prior(),
        )

    @classmethod
    @override
    def _jobs(cls, recipe: Recipe) -> tuple[int, int]:
        if recipe.label_smoothing == 0 or recipe.smoothing_prior != cls._prior():
            raise RecipeError(
                f"label_smoothing must be > 0 with smoothing_prior {cls._prior()!r} under method "
                f"{recipe.method!r}, got {recipe.label_smoothing:g} with {recipe.smoothing_prior!r}. "
                f"Change it in recipe {recipe.name!r}."
            )
        return super()._jobs(recipe)

    @classmethod
    def _prior(cls) -> Prior:
        return "uniform"
