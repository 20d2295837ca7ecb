"""Processes that start in no time, with torch loaded, and are there to be killed."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
# What a process imports beside these is small.
_PRELOADED = ["codistill", "codistill.testing", "numpy", "torch"]
_END_S = 20.0


@contextmanager
def processes() -> Iterator[Callable[..., ForkServerProcess]]:
    """Yield a function that starts a process; whatever it has started is killed at the end."""
    started: list[ForkServerProcess] = []
    _CONTEXT.set_forkserver_preload(_PRELOADED)

    def start(target: Callable[..., Any], *arguments: Any) -> ForkServerProcess:
        process = _CONTEXT.Process(target=target, args=arguments, daemon=True)
        process.start()
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            if process.exitcode is None:
                process.kill()
            process.join(_END_S)


def kill(process: ForkServerProcess) -> int:
    """Kill a process, without a chance to tidy up; return its exit code."""
    process.kill()
    process.join(_END_S)
    assert process.exitcode is not None
    return process.exitcode


def pipe() -> Any:
    """Return the two ends of a connection: ours, and the one to give to a process."""
    return _CONTEXT.Pipe()
