"""Recipes by name: one file a paper, and one row here each.

They are made when they are first asked for, not when this package is imported.
"""

import difflib
import functools
import importlib
from collections.abc import Mapping
from types import MappingProxyType

from codistill.errors import RecipeError
from codistill.lab.own_file import is_in_own_file, load_from_file
from codistill.lab.recipe import Recipe
from codistill.lab.recipes.entry import Entry

_MODULES = ("digits", "cifar10", "anil2018", "sodhani2020", "zhang2018", "sc20")
"""Each has ``ENTRIES``; in the order in which they are listed."""


def names() -> tuple[str, ...]:
    """Return the names of all recipes, sorted."""
    return tuple(sorted(_entries()))


def entries() -> tuple[Entry, ...]:
    """Return all recipes with their sources, paper by paper."""
    return tuple(_entries().values())


def entry(name: str) -> Entry:
    """Return a recipe with its source.

    Raises:
        RecipeError: If there is none of that name; those that are like it get listed.

    Example:
        >>> entry("sodhani2020-s3-lab").rows
        ('S3',)
    """
    known = _entries()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or ["digits", "cifar10"]
        raise RecipeError(
            f"recipe must be one of the {len(known)} that codistill recipes lists, such as "
            f"{', '.join(near)}, or FILE.py:NAME, got {name!r}."
        )
    return known[name]


def recipe(name: str) -> Recipe:
    """Return a recipe.

    Args:
        name: One of `names`, or ``"FILE.py:NAME"`` for one of your own.

    Raises:
        RecipeError: If there is none; or what the file holds under that name is none.

    Example:
        >>> recipe("digits").task
        'digits'
    """
    if is_in_own_file(name):
        return _own(name)
    return entry(name).recipe


def _own(word: str) -> Recipe:
    own = load_from_file(word, what="recipe")
    if not isinstance(own, Recipe):
        raise RecipeError(
            f"recipe must be a codistill.lab.recipe.Recipe, got a {type(own).__name__} in {word!r}. "
            "Name what the file assigns one to."
        )
    return own


@functools.cache
def _entries() -> Mapping[str, Entry]:
    found: dict[str, Entry] = {}
    for name in _MODULES:
        listed: tuple[Entry, ...] = importlib.import_module(f"codistill.lab.recipes.{name}").ENTRIES
        for one in listed:
            assert one.recipe.name not in found, one.recipe.name
            found[one.recipe.name] = one
    return MappingProxyType(found)
