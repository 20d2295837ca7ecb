"""Models that never hear of one another."""

from dataclasses import replace

from typing_extensions import override

from codistill.lab.methods.base import Method
from codistill.lab.recipe import Recipe


class Alone(Method):
    """Train ``peers`` models side by side, each on its share of the batch."""

    @classmethod
    @override
    def adapt(cls, recipe: Recipe) -> Recipe:
        return replace(recipe, ranks_per_peer=None)

    @classmethod
    @override
    def _jobs(cls, recipe: Recipe) -> tuple[int, int]:
        return recipe.peers, 1
