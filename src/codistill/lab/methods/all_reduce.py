"""Synchronous SGD: one model, gradients averaged over its ranks at every step."""

from typing_extensions import override

from codistill.lab.methods.base import Method, for_one_model
from codistill.lab.recipe import Recipe


class AllReduce(Method):
    """Train one model on several processes."""

    @classmethod
    @override
    def adapt(cls, recipe: Recipe) -> Recipe:
        return for_one_model(recipe)

    @classmethod
    @override
    def _jobs(cls, recipe: Recipe) -> tuple[int, int]:
        return 1, recipe.ranks_per_peer or recipe.ranks
