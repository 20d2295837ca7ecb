"""Models that never hear of one another, judged by the mean of their probabilities: the price to beat."""

from dataclasses import replace
from typing import ClassVar

from typing_extensions import override

from codistill.errors import RecipeError
from codistill.lab.methods.alone import Alone
from codistill.lab.recipe import Recipe


class Ensemble(Alone):
    """Train ``peers`` models apart; a prediction costs as many forwards."""

    is_ensemble: ClassVar[bool] = True

    @classmethod
    @override
    def adapt(cls, recipe: Recipe) -> Recipe:
        return replace(super().adapt(recipe), peers=max(recipe.peers, 2))

    @classmethod
    @override
    def _jobs(cls, recipe: Recipe) -> tuple[int, int]:
        if recipe.peers < 2:
            raise RecipeError(
                f"peers must be >= 2 for an ensemble, got {recipe.peers}. "
                f"Change it in recipe {recipe.name!r}."
            )
        return super()._jobs(recipe)
