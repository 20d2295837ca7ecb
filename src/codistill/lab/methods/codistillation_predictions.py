"""Codistillation whose peers see the same batches and swap what they make of them at every update."""

from dataclasses import replace
from typing import ClassVar

from typing_extensions import override

from codistill.errors import RecipeError
from codistill.exchange.base import Exchange
from codistill.exchange.prediction import PredictionExchange
from codistill.lab.methods.base import Arrangement, Build
from codistill.lab.methods.codistillation import Codistillation, T
from codistill.lab.recipe import Recipe


class CodistillationPredictions(Codistillation):
    """All peers in one world, without copies of one another (Murai et al. 2020, with equal batches)."""

    uses_store: ClassVar[bool] = False
    has_interval: ClassVar[bool] = False

    @classmethod
    @override
    def adapt(cls, recipe: Recipe) -> Recipe:
        return replace(super().adapt(recipe), regime="same_batches", topology="all", edges=())

    @classmethod
    @override
    def _jobs(cls, recipe: Recipe) -> tuple[int, int]:
        if recipe.regime != "same_batches" or recipe.topology != "all" or recipe.codec == "int8":
            raise RecipeError(
                "regime must be 'same_batches', topology 'all' and codec 'exact' or 'bfloat16' under method "
                f"{recipe.method!r}, got {recipe.regime!r}, {recipe.topology!r} and {recipe.codec!r}. "
                f"Change them in recipe {recipe.name!r}."
            )
        return super()._jobs(recipe)

    @classmethod
    @override
    def _arrangement(cls) -> Arrangement:
        return "one_world"

    @override
    def _exchange(self, build: Build | None) -> Exchange:
        assert self._place.mesh is not None, "the program of the rank makes a mesh for one world"
        return PredictionExchange(self._place.mesh["peers"], codec=self._recipe.codec)

    @override
    def _by_name(self, values: dict[str, T]) -> dict[str, T]:
        # The exchange names peers by their numbers.
        return {self._plan.peers[int(number)]: value for number, value in values.items()}
