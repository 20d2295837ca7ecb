import pytest

from codistill.errors import RecipeError
from codistill.lab import methods, recipes


def test_an_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(RecipeError, match="recipe must be one of cifar10, digits, got 'imagenet'"):
        recipes.recipe("imagenet")


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_says_what_it_shows_and_runs_with_every_method(name: str) -> None:
    recipe = recipes.recipe(name)
    assert recipe.name == name
    assert recipe.summary
    for method in methods.names():
        methods.method(method).plan(recipe)
