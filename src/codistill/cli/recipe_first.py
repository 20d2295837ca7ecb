"""Verbs whose first word is a recipe, every field of which is then an option."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from codistill.cli import output, parsing
from codistill.cli.usage import UsageError
from codistill.lab import recipes
from codistill.lab.recipe import Recipe

T = TypeVar("T")


def parse(
    cls: Callable[..., T], of_recipe: Callable[[Recipe], T], arguments: Sequence[str], *, verb: str
) -> tuple[T, T] | None:
    """Return what the options ask for, and what they would without any; None where help was asked for.

    Args:
        cls: A dataclass of options, with the recipe in it.
        of_recipe: Returns its defaults for a recipe.
        arguments: The words after the verb.
        verb: The verb.

    Raises:
        UsageError: If no recipe comes first.
        RecipeError: If there is no such recipe.
    """
    usage = (
        f"usage: codistill {verb} RECIPE [OPTIONS]\n\n"
        "RECIPE is a name that codistill recipes lists, such as digits or cifar10, or FILE.py:NAME of your\n"
        f"own; codistill {verb} RECIPE --help shows its fields, all of which are options."
    )
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        output.print_text(usage)
        return None
    if not name or name.startswith("-"):
        raise UsageError(f"The recipe must come first.\n{usage}")
    default = of_recipe(recipes.recipe(name))
    return parsing.call(cls, arguments[1:], verb=f"{verb} {name}", default=default), default
