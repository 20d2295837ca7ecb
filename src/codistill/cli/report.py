"""``codistill report``: compare the arms of a results folder and write its report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from codistill.cli import outcome, parsing

FolderWord = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]


def run(arguments: Sequence[str]) -> None:
    """Run the verb."""
    parsing.call(report, arguments, verb="report")


def report(folder: FolderWord, /, *, json: bool = False) -> None:
    """Compare the arms of a results folder, print the table, and write comparison.json and report.html.

    Args:
        folder: What `codistill demo` or `codistill train` left.
        json: Print the comparison as JSON.
    """
    outcome.show(folder, json=json)
