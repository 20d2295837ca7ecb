"""Codistillation whose peers each see a part of the data that nobody else sees."""

from dataclasses import replace

from typing_extensions import override

from codistill.lab.methods.codistillation import Codistillation
from codistill.lab.recipe import Recipe


class CodistillationDisjoint(Codistillation):
    """Peers on disjoint parts: better than on the same data, say Anil et al. 2018, section 3.3."""

    @classmethod
    @override
    def adapt(cls, recipe: Recipe) -> Recipe:
        return replace(super().adapt(recipe), regime="disjoint")
