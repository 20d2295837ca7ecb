"""The program that every process of every job runs: ``torchrun -m codistill.lab.rank JOB.json``.

It trains the recipes of the job in turn, so that several runs share one start of PyTorch; those that have
finished in an earlier life of the job are left out. With a second argument, ``--end-with-stdin``, it ends
when its standard input does: the launcher holds the other end of that pipe, and however it dies, no job
outlives it.
"""

import os
import sys
import threading
import traceback
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from codistill.errors import CodistillError
from codistill.lab import methods, tasks, trackers
from codistill.lab.checkpoint import CHECKPOINT
from codistill.lab.device import resolve_device
from codistill.lab.folder import RunFolder
from codistill.lab.job import Job, load_job
from codistill.lab.methods.base import Place
from codistill.lab.recipe import Recipe
from codistill.lab.tasks.base import Task
from codistill.lab.trainer import Trainer

END_WITH_STDIN = "--end-with-stdin"


def main(arguments: list[str]) -> None:
    """Train what the job says; a failure leaves its traceback beside the job's log."""
    if END_WITH_STDIN in arguments:
        threading.Thread(target=_exit_at_end_of_stdin, daemon=True).start()
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    run_recorded(load_job(Path(arguments[0])), rank=rank, ranks=ranks)


def run_recorded(job: Job, *, rank: int, ranks: int) -> None:
    """Train as `run` does; a failure leaves its traceback, and what a user can mend, in the job's files."""
    try:
        run(job, rank=rank, ranks=ranks)
    except Exception as error:
        job.traceback_path(rank).write_text(traceback.format_exc(), encoding="utf-8")
        if isinstance(error, CodistillError):
            job.error_path(rank).write_text(str(error), encoding="utf-8")
        raise


def run(job: Job, *, rank: int, ranks: int) -> None:
    """Train the recipes of a job in turn, on this process; of those that have not finished.

    Where a process group is there already, it is used, and left.

    Args:
        job: The job.
        rank: Of this process within the job.
        ranks: Processes of the job.

    Raises:
        CodistillError: What hinders a run.
    """
    device = resolve_device(job.device, rank=rank)
    folder = RunFolder(job.out)
    # Before ranks wait for one another: none of them writes a result until all have looked.
    left = job.unfinished()
    # Rank 0 alone acts on it: it speaks for the peer in the store.
    begun = {(recipe.label, recipe.seed) for recipe in left if _has_begun(job, recipe, folder, ranks)}
    makes_group = ranks > 1 and not dist.is_initialized()
    if makes_group:
        dist.init_process_group(_backend(device, ranks=ranks))
    elif device.type == "cuda" and dist.is_initialized():
        torch.cuda.set_device(device)
    try:
        loaded: dict[str, Task] = {}
        meshes: dict[tuple[int, ...], DeviceMesh] = {}
        for recipe in left:
            if recipe.task not in loaded:
                loaded[recipe.task] = tasks.load(recipe.task, data_root=job.data_root)
            comes_back = (recipe.label, recipe.seed) in begun
            place = replace(_place(job, recipe, folder, rank, meshes, device), comes_back=comes_back)
            path = folder.peer_path(recipe.label, recipe.seed, place.peer)
            with trackers.open_trackers(job.trackers, recipe, folder, rank=place.rank) as track:
                trainer = Trainer(
                    recipe,
                    task=loaded[recipe.task],
                    place=place,
                    folder=path,
                    device=device,
                    on_evaluation=track,
                )
                trainer.train(read_test=job.read_test)
    finally:
        if makes_group:
            dist.destroy_process_group()


def _has_begun(job: Job, recipe: Recipe, folder: RunFolder, ranks: int) -> bool:
    """Return whether an earlier life of the job began this run, and was cut off before its first checkpoint.

    Not whether it was refused, or has a checkpoint to go on from: that says itself whose name it has.
    """
    # What cannot be gone on from is cleared away before jobs are started: what is there is of this run.
    path = folder.peer_path(recipe.label, recipe.seed, job.peer)
    was_refused = any(job.error_path(rank).exists() for rank in range(ranks))
    return path.exists() and not (path / CHECKPOINT).exists() and not was_refused


def _place(
    job: Job,
    recipe: Recipe,
    folder: RunFolder,
    process: int,
    meshes: dict[tuple[int, ...], DeviceMesh],
    device: torch.device,
) -> Place:
    """Return what this process is in a run."""
    method = methods.method(recipe.method)
    plan, earlier = method.plan(recipe), method.earlier(recipe)
    (peer, *others), rank = plan.places_of((job.peer, *job.others), process)
    mesh = None
    if plan.arrangement == "one_world":
        shape = (len(plan.peers), plan.ranks)
        if shape not in meshes:
            meshes[shape] = init_device_mesh(device.type, shape, mesh_dim_names=("peers", "ranks"))
        mesh = meshes[shape]
    return Place(
        peer=peer,
        others=tuple(others),
        rank=rank,
        exchange=job.store or folder.exchange_path(recipe.label, recipe.seed),
        earlier=None if earlier is None else folder.exchange_path(earlier.label, recipe.seed),
        mesh=mesh,
    )


def _backend(device: torch.device, *, ranks: int) -> str:
    """Return what the ranks of a peer speak over; NCCL refuses two that share a device."""
    if device.type != "cuda" or torch.cuda.device_count() < ranks:
        return "gloo"
    torch.cuda.set_device(device)
    return "cpu:gloo,cuda:nccl"


def _exit_at_end_of_stdin() -> None:
    # Not sys.stdin: a thread that holds its lock would stop the interpreter from shutting down.
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
    # With gloo (torch 2.13) about one interpreter in a hundred aborts while it shuts down, with "terminate
    # called without an active exception" and no Python frame, which torchrun takes for a failed rank. All
    # there is to write has been written. To be removed when a thousand exits of two ranks are clean.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
