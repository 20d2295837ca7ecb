"""Recipes by name: one file and one row here each."""

from codistill.errors import RecipeError
from codistill.lab.recipe import Recipe
from codistill.lab.recipes import cifar10, digits

_RECIPES = {recipe.name: recipe for recipe in (cifar10.RECIPE, digits.RECIPE)}


def names() -> tuple[str, ...]:
    """Return the names of all recipes, sorted."""
    return tuple(sorted(_RECIPES))


def recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        RecipeError: If there is none; those there are get listed.

    Example:
        >>> recipe("digits").task
        'digits'
    """
    if name not in _RECIPES:
        raise RecipeError(f"recipe must be one of {', '.join(names())}, got {name!r}.")
    return _RECIPES[name]
