"""``codistill watch``: a live view of the peers of a store."""

import json as json_module
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Annotated

import tyro
from rich.console import Console
from rich.live import Live

from codistill.cli import output, parsing
from codistill.cli.existing_store import open_existing
from codistill.cli.usage import UsageError
from codistill.watch.page_server import PageServer
from codistill.watch.table import draw
from codistill.watch.view import View
from codistill.watch.watcher import Watcher

DONE, FAILED = 0, 1

_SHORTEST_INTERVAL_S, _LONGEST_INTERVAL_S = 0.2, 3600.0
_WIDER_THAN_ANY_VIEW = 10_000

StoreWord = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="STORE")]]


def run(arguments: Sequence[str]) -> int:
    """Run the verb; return its exit code."""
    return parsing.call(watch, arguments, verb="watch")


def watch(
    store: StoreWord,
    /,
    *,
    interval_s: float = 2.0,
    once: bool = False,
    json: bool = False,
    web: bool = False,
    host: str | None = None,
    port: int | None = None,
) -> int:
    """Show how the peers of a store are getting on, until it is interrupted.

    In a terminal the view is drawn over and over. Elsewhere one view follows the other, as of `top -b`.

    Args:
        store: The folder that the peers share, or its URL; only read.
        interval_s: Seconds between two looks at the store, 0.2 to 3600.
        once: Show one view and end: after one heartbeat, 5 s, where peers train, 15 s where one has died.
        json: Print JSON: one line a view, with --once one document.
        web: Serve a page for a browser instead; its URL goes to standard error. Needs the extra "serve".
        host: Where the page listens; 127.0.0.1 if not given. Whoever reaches it there sees the page.
        port: Of the page; any that is free if not given, or 0.
    """
    if not _SHORTEST_INTERVAL_S <= interval_s <= _LONGEST_INTERVAL_S:
        raise UsageError(
            f"--interval-s must be between {_SHORTEST_INTERVAL_S} and {_LONGEST_INTERVAL_S:g}, "
            f"got {interval_s}. 2 is the default."
        )
    if web and (once or json):
        raise UsageError("--web must be given without --once and --json, got both. Ask its /view.json.")
    if not web and not (host is None and port is None):
        raise UsageError("--host and --port must be given with --web, got no --web. Add it.")
    opened = open_existing(store)
    try:
        watcher = Watcher(opened, interval_s=interval_s)
        if once:
            view = watcher.look_until_settled()
            _print(view, json=json, indent=2)
            return DONE if view.away_s is None else FAILED
        with _ending() as end:
            if web:
                return _serve(watcher, end, interval_s, host or "127.0.0.1", port or 0)
            if json or not Console().is_terminal:
                _follow(watcher, end, interval_s, json=json)
            else:
                _draw(watcher, end, interval_s)
        return DONE
    except BrokenPipeError:
        # Whoever read has seen enough. What is still buffered would fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    finally:
        opened.close()


@contextmanager
def _ending() -> Iterator[threading.Event]:
    """Let a signal end the watch, not tear it."""
    end = threading.Event()

    def ask_to_end(_: int, __: FrameType | None) -> None:
        end.set()

    before = {number: signal.signal(number, ask_to_end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(watcher: Watcher, end: threading.Event, interval_s: float, *, json: bool) -> None:
    with watcher:
        _print(watcher.view(), json=json)
        while not end.wait(interval_s):
            if not json:
                output.print_text("")
            _print(watcher.view(), json=json)


def _draw(watcher: Watcher, end: threading.Event, interval_s: float) -> None:
    console = Console(highlight=False)
    with (
        watcher,
        Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        while True:
            size = console.size
            view = watcher.view()
            drawn = draw(view, width=size.width, height=size.height, has_blocks=_has_blocks(console))
            live.update(drawn, refresh=True)
            if end.wait(interval_s):
                break
    # The last view stays, as the screen it was drawn on goes.
    _print(view)


def _serve(watcher: Watcher, end: threading.Event, interval_s: float, host: str, port: int) -> int:
    with (
        PageServer(watcher.view, interval_s=interval_s, host=host, port=port) as server,
        watcher,
    ):
        sys.stderr.write(f"Watch it at {server.url}\n")
        sys.stderr.flush()
        while not end.wait(interval_s) and not server.is_broken:
            # Raises what has ended the looking.
            watcher.view()
        return FAILED if server.is_broken else DONE


def _print(view: View, *, json: bool = False, indent: int | None = None) -> None:
    if json:
        output.print_text(json_module.dumps(asdict(view), indent=indent, allow_nan=False))
    else:
        console = Console(highlight=False)
        width: int | None = console.width
        if not console.is_terminal and "COLUMNS" not in os.environ:
            # There is no line to fit into.
            console.width, width = _WIDER_THAN_ANY_VIEW, None
        console.print(draw(view, width=width, has_blocks=_has_blocks(console)))
    sys.stdout.flush()


def _has_blocks(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")
