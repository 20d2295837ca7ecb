"""Codistillation whose peers all see one part of the data: nobody knows what another has not seen."""

from dataclasses import replace

from typing_extensions import override

from codistill.lab.methods.codistillation import Codistillation
from codistill.lab.recipe import Recipe


class CodistillationSameData(Codistillation):
    """Peers on one and the same part, as large as each has under ``codistillation_disjoint``.

    Anil et al. 2018, section 3.3, hold disjoint data against it: both give a model as much data of its own,
    and only there do the others know more.
    """

    @classmethod
    @override
    def adapt(cls, recipe: Recipe) -> Recipe:
        return replace(super().adapt(recipe), regime="all_data")

    @classmethod
    @override
    def data_fraction(cls, recipe: Recipe) -> float:
        return recipe.data_fraction / recipe.peers
