"""``codistill demo``: train all arms of the demo and compare them."""

import functools
from collections.abc import Sequence
from pathlib import Path

from codistill.cli import outcome, output, parsing
from codistill.cli.usage import UsageError
from codistill.lab.demo import train_demo
from codistill.lab.folder import create
from codistill.lab.launch import check
from codistill.lab.recipes.demo import arms


def run(arguments: Sequence[str]) -> None:
    """Run the verb."""
    command = ["codistill", "demo", *arguments]
    parsing.call(functools.partial(demo, command), arguments, verb="demo")


def demo(
    command: Sequence[str],
    *,
    out: Path = Path("runs/demo"),
    seeds: int = 5,
    overwrite: bool = False,
    resume: bool = False,
    json: bool = False,
) -> None:
    """Train every arm of the demo, each peer in a process of its own, and compare them.

    Needs the extra "lab". Takes a few minutes on two cores, with the defaults.

    Args:
        command: The command line, for the record.
        out: Folder for the results; report.html is written there.
        seeds: How often each arm is trained, with seeds 0, 1, ...
        overwrite: Delete what an earlier run left in the folder.
        resume: Finish what an earlier run left in the folder.
        json: Print the comparison as JSON.
    """
    if seeds < 1:
        raise UsageError(f"seeds must be >= 1, got {seeds}. Differences show from 2 on.")
    if_exists = parsing.if_exists(overwrite=overwrite, resume=resume)
    check(arms())
    folder = create(out, arms=arms(), seeds=range(seeds), command=command, if_exists=if_exists)
    with output.bars() as show:
        train_demo(folder, on_progress=show)
    outcome.show(folder.path, json=json)
