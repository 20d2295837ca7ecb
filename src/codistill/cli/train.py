"""``codistill train``: train one recipe."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from codistill.cli import outcome, output, parsing, recipe_first
from codistill.lab import launchers, recipes
from codistill.lab.documents import to_document
from codistill.lab.experiment import with_earlier
from codistill.lab.folder import create
from codistill.lab.launch import LaunchOptions, check, check_unused, launch, scripts
from codistill.lab.own_file import is_in_own_file
from codistill.lab.recipe import Recipe
from codistill.lab.results import PeerResult

_JOBS_LIVE_ON = "Jobs of Slurm live on when this command ends: the same command with --resume finds them."


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one recipe, each peer a job of its own, and write a report."""

    recipe: tyro.conf.OmitArgPrefixes[Recipe]
    """What to train."""
    peer: str | None = None
    """Train this peer alone; the others are started elsewhere by the same command with their names."""
    store: str | None = None
    """Folder or URL where that peer meets the others: a new one for each run."""
    on: Literal["local", "ray", "slurm"] = "local"
    """What starts the jobs: this machine, Ray Train, or Slurm."""
    job: tuple[str, ...] = ()
    """What each job asks of Slurm or Ray, such as time=24:00:00 partition=gpu gpus-per-node=8."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print what would be submitted to Slurm, and submit nothing."""
    data_root: Path | None = None
    """Folder that holds the data sets' folders; $CODISTILL_DATA, else ./data, if not given."""
    out: Path | None = None
    """Folder for the results; runs/ and the name of the recipe, and of the peer, if not given."""
    device: str = "auto"
    """Where models live: "auto", "cpu", "cuda", or another device of torch."""
    trackers: tuple[str, ...] = ("csv", "tensorboard")
    """Where metrics are shown besides metrics.jsonl: csv, tensorboard, trackio, wandb."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Delete what an earlier run left in the folder."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Finish what an earlier run left in the folder."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the comparison as JSON."""


def run(arguments: Sequence[str]) -> None:
    """Run the verb."""
    parsed = recipe_first.parse(Train, lambda recipe: Train(recipe=recipe), arguments, verb="train")
    if parsed is not None:
        options, _ = parsed
        preface = _preface(arguments[0], options.recipe)
        train(options, command=["codistill", "train", *arguments], preface=preface)


def train(options: Train, *, command: Sequence[str], preface: Sequence[str] = ()) -> None:
    """Train, compare, print.

    Args:
        options: What the command line says.
        command: The command line, for the record.
        preface: Lines for standard error before training begins.
    """
    recipe = options.recipe
    launching = LaunchOptions(
        data_root=options.data_root,
        device=options.device,
        peer=options.peer,
        store=options.store,
        trackers=options.trackers,
        launcher=launchers.launcher(options.on, options.job),
    )
    arms = with_earlier([recipe])
    check(arms, options=launching)
    name = recipe.name if options.peer is None else f"{recipe.name}-{options.peer}"
    out = options.out or Path("runs") / name
    labelled = [replace(arm, arm=arm.label) for arm in arms]
    if options.dry_run:
        _show_scripts(out, labelled, launching, json=options.json)
        return
    launching.launcher.check_system()
    if options.overwrite:
        check_unused(out, labelled, options=launching)
    folder = create(
        out,
        arms=arms,
        seeds=[recipe.seed],
        command=command,
        if_exists=parsing.if_exists(overwrite=options.overwrite, resume=options.resume),
    )
    said = [*preface, *([_JOBS_LIVE_ON] if options.on == "slurm" else [])]
    sys.stderr.writelines(f"{line}\n" for line in said)
    with output.bars() as show:
        for arm in labelled:
            trained = launch(folder, [arm], options=launching, on_progress=show)
    if options.peer is None:
        outcome.show(folder.path, json=options.json)
    else:
        _show_peer(trained[0], folder.path, json=options.json)


def _show_scripts(out: Path, arms: Sequence[Recipe], launching: LaunchOptions, *, json: bool) -> None:
    """Print what would be submitted, an arm after the other."""
    texts = [
        {"arm": arm.label, "peer": peer, "script": text}
        for arm in arms
        for peer, text in scripts(out, arm, options=launching).items()
    ]
    if json:
        output.print_json(texts)
        return
    for text in texts:
        output.print_text(f"# {text['arm']}, peer {text['peer']}\n{text['script']}")


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


def _preface(name: str, asked: Recipe) -> tuple[str, ...]:
    """Return what a recipe reproduces and how it deviates; nothing of one in a file of the user's own."""
    if is_in_own_file(name):
        return ()
    entry = recipes.entry(name)
    listed, chosen = to_document(entry.recipe), to_document(asked)
    changed = [f"{field} {chosen[field]!r}" for field in listed if chosen[field] != listed[field]]
    return (*entry.lines(), *([f"Changed by options: {', '.join(changed)}."] if changed else []))
