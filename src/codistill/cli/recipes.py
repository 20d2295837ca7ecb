"""``codistill recipes``: which recipes there are."""

from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from codistill.cli import output, parsing
from codistill.lab import recipe as lab_recipe
from codistill.lab import recipes as lab_recipes

NameWord = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]


def run(arguments: Sequence[str]) -> None:
    """Run the verb."""
    if arguments[:1] == ["show"]:
        parsing.call(show, arguments[1:], verb="recipes show")
    else:
        parsing.call(recipes, arguments, verb="recipes")


def recipes(*, json: bool = False) -> None:
    """List the recipes; `codistill recipes show NAME` shows the fields of one.

    Args:
        json: Print JSON.
    """
    summaries = {name: lab_recipes.recipe(name).summary for name in lab_recipes.names()}
    if json:
        output.print_json(summaries)
    else:
        output.print_table({"recipe": "left", "what it trains": "left"}, list(summaries.items()))


def show(name: NameWord, /, *, json: bool = False) -> None:
    """Show every field of a recipe; each is an option of `codistill train`.

    Args:
        name: Name of the recipe.
        json: Print JSON.
    """
    fields = lab_recipe.to_document(lab_recipes.recipe(name))
    if json:
        output.print_json(fields)
    else:
        output.print_table(
            {"field": "left", "value": "left"}, [(field, _text(value)) for field, value in fields.items()]
        )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "-" if value is None or value == "" else str(value)
