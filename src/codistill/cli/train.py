"""``codistill train``: train one recipe."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from codistill.cli import outcome, output, parsing
from codistill.cli.usage import UsageError
from codistill.lab import recipes
from codistill.lab.documents import to_document
from codistill.lab.folder import create
from codistill.lab.launch import LaunchOptions, check, launch
from codistill.lab.recipe import Recipe
from codistill.lab.results import PeerResult


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one recipe, each peer a job of its own, and write a report."""

    recipe: tyro.conf.OmitArgPrefixes[Recipe]
    """What to train."""
    peer: str | None = None
    """Train this peer alone; the others are started elsewhere by the same command with their names."""
    store: str | None = None
    """Folder or URL where that peer meets the others: a new one for each run."""
    data_root: Path | None = None
    """Folder that holds the data sets' folders; $CODISTILL_DATA, else ./data, if not given."""
    out: Path | None = None
    """Folder for the results; runs/ and the name of the recipe, and of the peer, if not given."""
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
    recipe = options.recipe
    launching = LaunchOptions(
        data_root=options.data_root, device=options.device, peer=options.peer, store=options.store
    )
    check([recipe], options=launching)
    name = recipe.name if options.peer is None else f"{recipe.name}-{options.peer}"
    folder = create(
        options.out or Path("runs") / name,
        arms=[recipe],
        seeds=[recipe.seed],
        command=command,
        if_exists=parsing.if_exists(overwrite=options.overwrite, resume=options.resume),
    )
    with output.bars() as show:
        trained = launch(
            folder,
            [replace(recipe, arm=recipe.label)],
            options=launching,
            on_progress=show,
        )
    if options.peer is None:
        outcome.show(folder.path, json=options.json)
    else:
        _show_peer(trained[0], folder.path, json=options.json)


def _show_peer(result: PeerResult, path: Path, *, json: bool) -> None:
    """Print how the one peer that was trained here came out: a report needs all of them."""
    if json:
        output.print_json({**to_document(result), "results": str(path)})
        return
    accuracy = result.validation_accuracy if result.test_accuracy is None else result.test_accuracy
    taught = "" if result.teacher_share is None else f", {result.teacher_share:.0%} of them with a teacher"
    output.print_text(
        f"Peer {result.peer}: accuracy {accuracy:.1%} after {result.updates:,} updates{taught}.\n"
        f"Results: {path}"
    )


def _usage() -> str:
    names = ", ".join(recipes.names())
    return (
        "usage: codistill train RECIPE [OPTIONS]\n\n"
        f"RECIPE is one of {names}; codistill train RECIPE --help shows its fields, all of which are options."
    )
