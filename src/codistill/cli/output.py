"""What goes to standard output: text for people, or JSON for programs; and bars on standard error."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

WIDTH_WITHOUT_TERMINAL = 100

# Evaluations, by which progress is known, may be further apart than rich's 30 seconds.
_SPEED_OVER_S = 120.0


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
def bars(expected: Mapping[str, int] | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar an arm, on standard error, and the time that is left by its speed.

    Where that is no terminal, such as under cron, an arm is a line when it ends, and the bars come last.

    Args:
        expected: Updates of each arm, by label, as far as they are known beforehand: a bar over all of them
            comes first then.

    Yields:
        A function of an arm's label, the updates it has done, and the updates it will do in all.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("updates"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # Whoever trains calls several times a second: no thread is needed to draw.
    with Progress(
        *columns, console=console, auto_refresh=False, speed_estimate_period=_SPEED_OVER_S
    ) as progress:
        tasks: dict[str, Any] = {}
        done_by_arm: dict[str, int] = {}
        total_by_arm = dict(expected or {})
        over_all: Any = None

        def show(arm: str, done: int, total: int) -> None:
            nonlocal over_all
            # Not before the first: what cannot be trained is refused without a bar.
            if expected and over_all is None:
                over_all = progress.add_task("all runs", total=sum(total_by_arm.values()))
            if arm not in tasks:
                tasks[arm] = progress.add_task(arm, total=total)
            progress.update(tasks[arm], completed=done, total=total)
            if done == total != done_by_arm.get(arm) and not console.is_terminal:
                console.print(f"{arm}: {done:,} updates are done", highlight=False, markup=False)
            done_by_arm[arm], total_by_arm[arm] = done, total
            if over_all is not None:
                progress.update(
                    over_all, completed=sum(done_by_arm.values()), total=sum(total_by_arm.values())
                )
            progress.refresh()

        yield show
