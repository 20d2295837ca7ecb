"""A comparison in the terminal."""

from typing import Any

from codistill.extras import require
from codistill.lab.comparison import Comparison
from codistill.lab.report.columns import footnotes, headlines, label

WIDTH = 100
"""Columns of text that the table keeps within."""


def print_comparison(comparison: Comparison, *, console: Any = None) -> None:
    """Print the table, a line a verdict, and the notes.

    Args:
        comparison: What to show.
        console: A ``rich.console.Console``; by default one on standard output, at most `WIDTH` wide, and
            exactly that wide where the output is no terminal.

    Raises:
        ExtraMissingError: If rich is not installed.
    """
    rich: Any = require("rich.console", "cli")
    box: Any = require("rich.box", "cli")
    table_of: Any = require("rich.table", "cli").Table
    text_of: Any = require("rich.text", "cli").Text
    if console is None:
        console = rich.Console(highlight=False)
        console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    table = table_of(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("arm", overflow="fold", min_width=12)
    columns = headlines(comparison)
    for column in columns:
        table.add_column(_over_lines(column.label), justify="right", no_wrap=True)
    for row in comparison.rows:
        # Text, not str: square brackets in a label are no markup.
        table.add_row(text_of(label(row)), *(text_of(column.cell(row)) for column in columns))
    console.print(table)
    for verdict in comparison.verdicts:
        console.print(text_of(verdict.sentence()))
    if comparison.verdicts:
        console.print()
    for note in footnotes(comparison):
        console.print(text_of(note), style="dim")


def _over_lines(heading: str) -> str:
    """Return a heading that is no wider than its longest word."""
    return heading.replace(" ", "\n").replace("/", "/\n")
