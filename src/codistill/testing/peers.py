"""Peers as threads of the test."""

import datetime
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.distributed_c10d import PrefixStore

Result = TypeVar("Result")


def run_peers(
    function: Callable[[str], Result], peers: Iterable[str], *, timeout_s: float = 60.0
) -> dict[str, Result]:
    """Run a function once a peer, each in a thread of its own, and wait for all.

    What torch keeps a thread (grad mode, autocast, the default device) begins afresh in each: a
    ``torch.no_grad()`` around this call has no effect inside. The random generator is the process's,
    so that peers that draw from it at once are not reproducible: give each its own.

    Args:
        function: What a peer does, given its name.
        peers: Their names.
        timeout_s: How long all of them together may take.

    Returns:
        What each returned, in the order of `peers`.

    Raises:
        BaseException: The first error of a peer, with its name in a note, after all have ended.
        TimeoutError: If a peer does not end in time. Its thread cannot be stopped; it dies with the process.

    Example:
        >>> run_peers(str.upper, ["a", "b"])
        {'a': 'A', 'b': 'B'}
    """
    results: dict[str, Result] = {}
    errors: list[BaseException] = []

    def run(peer: str) -> None:
        try:
            results[peer] = function(peer)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            error.add_note(f"raised by peer {peer!r}")
            errors.append(error)

    names = list(peers)
    threads = {
        name: threading.Thread(target=run, args=(name,), name=f"peer-{name}", daemon=True) for name in names
    }
    for thread in threads.values():
        thread.start()
    deadline_s = time.monotonic() + timeout_s
    for thread in threads.values():
        thread.join(max(0.0, deadline_s - time.monotonic()))
    stuck = [name for name, thread in threads.items() if thread.is_alive()]
    if errors:
        if stuck:
            errors[0].add_note(f"peers {stuck} were still running after {timeout_s} s")
        raise errors[0]
    if stuck:
        raise TimeoutError(f"peers must end within {timeout_s} s, got {stuck} still running.")
    return {name: results[name] for name in names}


def connect_peers(count: int, *, timeout_s: float = 60.0) -> list[ProcessGroup]:
    """Return the ends of a gloo group whose members are threads of this process, one a peer.

    They serve collectives on the CPU, as the groups of a real world do, but torch does not know them by
    name: there is no world that they are part of.

    Args:
        count: How many peers.
        timeout_s: How long a peer waits for the others.

    Returns:
        One end for each peer, to be used in a thread of its own.
    """
    store = dist.HashStore()  # type: ignore[attr-defined]  # documented, but not in torch's list of exports

    def connect(name: str) -> ProcessGroup:
        number = int(name)
        # What torch.distributed.new_group does, which allows a process only one place in a group.
        backend = dist.ProcessGroupGloo(
            PrefixStore("peers", store), number, count, datetime.timedelta(seconds=timeout_s)
        )
        group = ProcessGroup(store, number, count)
        group._register_backend(torch.device("cpu"), ProcessGroup.BackendType.GLOO, backend)
        group._set_default_backend(ProcessGroup.BackendType.GLOO)
        return group

    return list(run_peers(connect, map(str, range(count)), timeout_s=timeout_s).values())
