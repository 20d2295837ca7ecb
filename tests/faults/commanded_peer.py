"""A peer in a process of its own that trains when it is told to."""

import resource
import warnings

import torch
from faults.trainer import Trainer
from settled_threads import SettledThreads

from codistill.errors import CodistillError
from codistill.testing import FakeClock


def obey(job, connection):
    """Do what comes through the connection, and answer."""
    torch.set_num_threads(1)
    trainer = Trainer(job)
    trainer.exchange.clock = FakeClock()
    trainer.exchange.background = background = SettledThreads()
    connection.send({"step": trainer.steps})
    while True:
        command, *arguments = connection.recv()
        if command == "train":
            connection.send(_train(trainer, background, *arguments))
        elif command == "save":
            trainer.save()
            connection.send({"step": trainer.steps})
        elif command == "let files be as large as":
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (*arguments, hard))
            connection.send({})
        elif command == "close":
            trainer.codistiller.close()
            connection.send({"step": trainer.steps})
            return


def _train(trainer, background, steps):
    published, fetched, error = 0, [], None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for _ in range(steps):
                report = trainer.step()
                background.settle()
                published += report.published
                fetched += report.fetched
        except CodistillError as raised:
            error = repr(raised)
    return {
        "step": trainer.steps,
        "published": published,
        "fetched": fetched,
        "error": error,
        "incarnations": {peer: info.incarnation for peer, info in trainer.codistiller.teachers.items()},
        "ages": {peer: info.age_steps for peer, info in trainer.codistiller.teachers.items()},
        "warnings": [str(warning.message) for warning in caught],
    }
