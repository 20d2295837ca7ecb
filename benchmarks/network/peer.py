"""A training process on one of the hosts, that does what it is told."""

import datetime
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from codistill import CheckpointExchange, Membership, SnapshotOptions
from codistill.exchange.prediction.exchange import PredictionExchange
from network.hosts import INTERFACE, Host
from network.lifetime import end_with_parent
from network.training import Size, Step, Training, new_model
from network.transfers import TimedThreads
from network.ways import AllReduce, Alone, Checkpoints, Predictions, Way

_RENDEZVOUS_PORT: Final = 29500
_SETTLE_S: Final = 120.0


def obey(host: Host, size: Size, way: Way, rendezvous: str, idle_s: float, connection: Connection) -> None:
    """Do what comes through the connection, and answer, in a process of its own.

    Args:
        host: Where.
        size: Of model and batch.
        way: How it trains.
        rendezvous: Address where ranks find one another.
        idle_s: What each step sleeps, as a process does that waits for its accelerator.
        connection: Commands come, answers go: a result, or a traceback as text.
    """
    end_with_parent()
    try:
        host.enter()
        torch.set_num_threads(1)
        with warnings.catch_warnings(record=True) as caught, _way(host, size, way, rendezvous) as trained:
            warnings.simplefilter("always")
            module, exchange, seed = trained
            threads = None
            if isinstance(exchange, CheckpointExchange):
                exchange.background = threads = TimedThreads()
            training = Training(size, module, exchange, seed=seed, idle_s=idle_s)
            connection.send({})
            while True:
                command, *arguments = connection.recv()
                if command == "close":
                    training.close()
                    connection.send({})
                    return
                answer: dict[str, Any] = {"steps": _do(command, arguments, training, threads, connection)}
                answer["transfers"] = [] if threads is None else [asdict(job) for job in threads.take()]
                answer["warnings"] = [str(warning.message) for warning in caught]
                caught.clear()
                connection.send(answer)
    except BaseException:
        connection.send(traceback.format_exc())
        raise


def _do(
    command: str,
    arguments: list[Any],
    training: Training,
    threads: TimedThreads | None,
    connection: Connection,
) -> list[dict[str, Any]]:
    """Do what a command says; return the steps that were made."""
    steps = []
    match command, arguments:
        case "train", [count]:
            steps = [training.step() for _ in range(count)]
        case "train until told", []:
            steps = _train_until_told(training, connection)
        case "settle", []:
            if threads is not None:
                threads.settle(_SETTLE_S)
        case _:
            raise AssertionError(f"unknown command {command!r}")
    return [asdict(step) for step in steps]


def _train_until_told(training: Training, connection: Connection) -> list[Step]:
    """Train until told at which step to stop, which ranks that wait for one another do at the same one."""
    steps: list[Step] = []
    last = None
    while last is None or len(steps) < last:
        steps.append(training.step())
        while last is None and connection.poll():
            match connection.recv():
                case ("where",):
                    connection.send({"count": len(steps)})
                case ("stop", last):
                    pass
    return steps


@contextmanager
def _way(
    host: Host, size: Size, way: Way, rendezvous: str
) -> Iterator[tuple[torch.nn.Module, CheckpointExchange | PredictionExchange | None, int]]:
    """Yield what is trained, by what exchange, and the seed of the data."""
    number = "ab".index(host.name)
    match way:
        case Alone():
            yield new_model(size, seed=number), None, number
        case AllReduce():
            with _group(number, rendezvous, way.timeout_s):
                yield DistributedDataParallel(new_model(size, seed=0)), None, number
        case Predictions():
            with _group(number, rendezvous, way.timeout_s) as group:
                # The same data on both.
                yield new_model(size, seed=number), PredictionExchange(group, codec=way.codec), 0
        case Checkpoints():
            os.environ.update(way.environment)
            exchange = CheckpointExchange(
                way.store,
                peer=host.name,
                peers=["a", "b"],
                interval_steps=way.interval_steps,
                snapshots=SnapshotOptions(codec=way.codec),
                membership=Membership(start_with_peers=1),
            )
            yield new_model(size, seed=number), exchange, number


@contextmanager
def _group(rank: int, rendezvous: str, timeout_s: float) -> Iterator[dist.ProcessGroup]:
    os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{rendezvous}:{_RENDEZVOUS_PORT}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=timeout_s),
    )
    try:
        assert dist.group.WORLD is not None
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()
