"""Models that never hear of one another."""

from typing_extensions import override

from codistill.lab.methods.base import Method
from codistill.lab.recipe import Recipe


class Alone(Method):
    """Train ``peers`` models side by side, each on its share of the batch."""

    @classmethod
    @override
    def _jobs(cls, recipe: Recipe) -> tuple[int, int]:
        return recipe.peers, 1
