"""What goes to standard output: text for people, or JSON for programs; and bars on standard error."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

WIDTH_WITHOUT_TERMINAL = 100


def print_text(text: str) -> None:
    """Print a line as it is, neither wrapped nor coloured."""
    sys.stdout.write(f"{text}\n")


def print_json(document: Any) -> None:
    """Print a document that a program may read."""
    print_text(json.dumps(document, indent=2, allow_nan=False))


def print_table(headings: Mapping[str, str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table.

    Args:
        headings: Heading of each column -> its side, "left" or "right".
        rows: The cells.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH_WITHOUT_TERMINAL
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading, side in headings.items():
        table.add_column(heading, justify="right" if side == "right" else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar an arm, on standard error.

    Yields:
        A function of an arm's label, the updates it has done, and the updates it will do in all.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("updates"),
        TimeElapsedColumn(),
    )
    # Whoever trains calls several times a second: no thread is needed to draw.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        tasks: dict[str, Any] = {}

        def show(arm: str, done: int, total: int) -> None:
            if arm not in tasks:
                tasks[arm] = progress.add_task(arm, total=total)
            progress.update(tasks[arm], completed=done, total=total, refresh=True)

        yield show
