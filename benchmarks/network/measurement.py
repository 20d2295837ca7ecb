"""What one way of training costs on the link: bytes, seconds a step, seconds a transfer."""

import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from faults.processes import pipe

from network.hosts import Host, Traffic, TwoHosts
from network.peer import obey
from network.stores import Start
from network.training import Size
from network.ways import Checkpoints, Way

IDLE_S: Final = 0.02

_ANSWER_S: Final = 300.0
# Steps of host a's peer before the other's: when that one begins, it has long published.
_LEAD_STEPS: Final = 10
_WARM_UP_STEPS: Final = 3


class FailedError(Exception):
    """A process on one of the hosts has failed; the message is its traceback."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A training process."""

    name: str
    """Its host's."""
    connection: Connection
    """Takes commands and gives answers."""

    def tell(self, *command: Any) -> None:
        """Send a command."""
        # Who has ended has sent why.
        with suppress(BrokenPipeError):
            self.connection.send(command)

    def answer(self) -> dict[str, Any]:
        """Return the answer to the last command."""
        if not self.connection.poll(_ANSWER_S):
            raise FailedError(f"peer {self.name} has not answered for {_ANSWER_S} s")
        answer = self.connection.recv()
        if isinstance(answer, str):
            raise FailedError(answer)
        assert isinstance(answer, dict)
        return answer


@contextmanager
def peers(
    start: Start, hosts: TwoHosts, size: Size, way: Way, *, idle_s: float = IDLE_S
) -> Iterator[list[Peer]]:
    """Yield a training process on each host.

    Args:
        start: Starts a process.
        hosts: Where.
        size: Of model and batch.
        way: How.
        idle_s: What each step sleeps, as a process does that waits for its accelerator.
    """
    with ExitStack() as stack:
        pair = [
            stack.enter_context(_peer(start, host, size, way, hosts.a.address, idle_s))
            for host in (hosts.a, hosts.b)
        ]
        for peer in pair:
            peer.answer()
        yield pair


@contextmanager
def _peer(start: Start, host: Host, size: Size, way: Way, rendezvous: str, idle_s: float) -> Iterator[Peer]:
    ours, theirs = pipe()
    process = start(obey, host, size, way, rendezvous, idle_s, theirs)
    theirs.close()
    try:
        yield Peer(host.name, ours)
    finally:
        ours.close()
        process.kill()
        process.join()


def ask(asked: list[Peer], *command: Any) -> list[dict[str, Any]]:
    """Let several do the same at once; return their answers."""
    for peer in asked:
        peer.tell(*command)
    return [peer.answer() for peer in asked]


def measure(
    start: Start, hosts: TwoHosts, size: Size, way: Way, *, steps: int, idle_s: float = IDLE_S
) -> dict[str, Any]:
    """Return what training costs on the link, and host b's peer.

    Args:
        start: Starts a process.
        hosts: Where.
        size: Of model and batch.
        way: How.
        steps: How many are counted; of an exchange of snapshots, whole intervals.
        idle_s: As of `peers`.
    """
    with peers(start, hosts, size, way, idle_s=idle_s) as pair:
        if isinstance(way, Checkpoints):
            answers, traffic = _measure_intervals(pair, hosts, way.interval_steps, steps)
        else:
            ask(pair, "train", _WARM_UP_STEPS)
            before = hosts.count()
            answers = [ask(pair, "train", steps)[1]]
            traffic = hosts.count() - before
        ask(pair, "close")
    trained = [step for answer in answers for step in answer["steps"]]
    transfers = [transfer for answer in answers for transfer in answer["transfers"]]
    return {
        "steps": steps,
        # As b's own interface counts them.
        "sent_bytes": traffic.to_a_bytes,
        "received_bytes": traffic.to_b_bytes,
        "step_s": statistics.median(step["seconds"] for step in trained),
        "longest_step_s": max(step["seconds"] for step in trained),
        "stall_s": statistics.median(step["stall_s"] for step in trained),
        "longest_stall_s": max(step["stall_s"] for step in trained),
        "publish_s": [t["seconds"] for t in transfers if t["name"] == "publish" and t["is_done"]],
        "fetch_s": [t["seconds"] for t in transfers if t["name"] == "fetch" and t["is_done"]],
        "published": sum(step["published"] for step in trained),
        "fetched": sum(step["fetched"] for step in trained),
        "warnings": [warning for answer in answers for warning in answer["warnings"]],
    }


def _measure_intervals(
    pair: list[Peer], hosts: TwoHosts, interval_steps: int, steps: int
) -> tuple[list[dict[str, Any]], Traffic]:
    """Return the answers of host b's peer, and what has crossed the link, over whole intervals.

    They begin and end between two publishes. Host a's peer is some steps ahead, so that each finds exactly
    one new snapshot of the other at each interval; both wait where one's transfers might meet the other's.
    """
    a, _ = pair
    half = interval_steps // 2
    ask(pair, "train", 1)
    ask([a], "train", _LEAD_STEPS)
    ask(pair, "train", half - 1)
    ask(pair, "settle")
    before = hosts.count()
    answers = []
    for _ in range(steps // interval_steps):
        for count in (interval_steps - half - _LEAD_STEPS - 1, _LEAD_STEPS, half + 1):
            answers += [ask(pair, "train", count)[1], ask(pair, "settle")[1]]
    traffic = hosts.count() - before
    # What has come is taken at the next step.
    answers.append(ask(pair, "train", 1)[1])
    return answers, traffic
