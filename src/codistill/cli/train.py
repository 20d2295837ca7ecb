"""``codistill train``: train one recipe."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from codistill.cli import outcome, output, parsing
from codistill.cli.usage import UsageError
from codistill.lab import recipes
from codistill.lab.folder import create
from codistill.lab.launch import LaunchOptions, check, launch
from codistill.lab.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one recipe, each peer in a process of its own, and write a report."""

    recipe: tyro.conf.OmitArgPrefixes[Recipe]
    """What to train."""
    data_root: Path | None = None
    """Folder that holds the data sets' folders; $CODISTILL_DATA, else ./data, if not given."""
    out: Path | None = None
    """Folder for the results; runs/ and the name of the recipe, if not given."""
    device: str = "auto"
    """Where models live: "auto", "cpu", "cuda", or another device of torch."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Delete what an earlier run left in the folder."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Finish what an earlier run left in the folder."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the comparison as JSON."""


def run(arguments: Sequence[str]) -> None:
    """Run the verb."""
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        output.print_text(_usage())
        return
    if not name or name.startswith("-"):
        raise UsageError(f"The recipe must come first.\n{_usage()}")
    default = Train(recipe=recipes.recipe(name))
    options = parsing.call(Train, arguments[1:], verb=f"train {name}", default=default)
    train(options, command=["codistill", "train", *arguments])


def train(options: Train, *, command: Sequence[str]) -> None:
    """Train, compare, print.

    Args:
        options: What the command line says.
        command: The command line, for the record.
    """
    launching = LaunchOptions(data_root=options.data_root, device=options.device)
    check([options.recipe], options=launching)
    folder = create(
        options.out or Path("runs") / options.recipe.name,
        arms=[options.recipe],
        seeds=[options.recipe.seed],
        command=command,
        if_exists=parsing.if_exists(overwrite=options.overwrite, resume=options.resume),
    )
    with output.bars() as show:
        launch(
            folder,
            [replace(options.recipe, arm=options.recipe.label)],
            options=launching,
            on_progress=show,
        )
    outcome.show(folder.path, json=options.json)


def _usage() -> str:
    names = ", ".join(recipes.names())
    return (
        "usage: codistill train RECIPE [OPTIONS]\n\n"
        f"RECIPE is one of {names}; codistill train RECIPE --help shows its fields, all of which are options."
    )
