"""``codistill recipes``: which recipes there are."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import tyro

from codistill.cli import output, parsing
from codistill.lab import recipe as lab_recipe
from codistill.lab import recipes as lab_recipes
from codistill.lab.own_file import is_in_own_file
from codistill.lab.recipes.entry import Entry

NameWord = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]


def run(arguments: Sequence[str]) -> None:
    """Run the verb."""
    if arguments[:1] == ["show"]:
        parsing.call(show, arguments[1:], verb="recipes show")
    else:
        parsing.call(recipes, arguments, verb="recipes")


def recipes(*, json: bool = False) -> None:
    """List the recipes by paper; `codistill recipes show NAME` shows one.

    Args:
        json: Print JSON.
    """
    entries = lab_recipes.entries()
    if json:
        output.print_json({entry.recipe.name: _document(entry) for entry in entries})
        return
    headings = {"recipe": "left", "rows": "left", "scale": "left", "what it trains": "left"}
    for paper, listed in itertools.groupby(entries, key=lambda entry: entry.paper):
        output.print_text(paper or "For trying things out")
        output.print_table(headings, [_row(entry) for entry in listed])


def show(name: NameWord, /, *, json: bool = False) -> None:
    """Show what a recipe reproduces, how it deviates, and every field: options of `codistill train`.

    Args:
        name: Name of the recipe, or FILE.py:NAME of your own.
        json: Print the fields as JSON.
    """
    fields = lab_recipe.to_document(lab_recipes.recipe(name))
    if json:
        output.print_json(fields)
        return
    if not is_in_own_file(name):
        for line in lab_recipes.entry(name).lines():
            output.print_text(line)
    output.print_table(
        {"field": "left", "value": "left"}, [(field, _text(value)) for field, value in fields.items()]
    )


def _row(entry: Entry) -> tuple[str, str, str, str]:
    recipe = entry.recipe
    place = f"{entry.place}: " if entry.place else ""
    return recipe.name, " ".join(entry.rows), entry.scale, f"{place}{recipe.summary}"


def _document(entry: Entry) -> dict[str, Any]:
    """Return where a recipe comes from; its fields are what `show` prints."""
    document = asdict(entry)
    return {"summary": document.pop("recipe")["summary"], **document}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "-" if value is None or value == "" else str(value)
