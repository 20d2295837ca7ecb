"""Jobs of Ray: each peer a `TorchTrainer`, its ranks the trainer's workers, all in one cluster."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, final

from typing_extensions import override

from codistill.errors import RecipeError
from codistill.extras import check_installed, require
from codistill.lab import provenance
from codistill.lab import rank as ranks_of_jobs
from codistill.lab.job import Job, load_job
from codistill.lab.launchers.base import Launcher, check_checkpoints
from codistill.lab.launchers.failure import failure
from codistill.lab.launchers.settings import read_settings, whole_number
from codistill.lab.recipe import Recipe

_EXTRA = "ray"
_KEYS = ("address", "cpus-per-rank", "gpus-per-rank", "max-failures")
_POLL_S = 0.5


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RayLauncher(Launcher):
    """Runs each peer as a `TorchTrainer` of Ray Train, all at once in one cluster.

    The cluster is the one that there is, else one of this machine, for as long as `run` takes. Ray starts the
    ranks of a peer anew when one of them dies or its node is taken away; they go on from the trainer's own
    checkpoint, which Ray knows nothing of. What a user can mend is not tried again. The jobs end with this
    process, as all that a driver starts does: to let them live on, submit the command itself,
    ``ray job submit -- codistill train ...``.
    """

    name: ClassVar[str] = "ray"

    address: str | None = None
    """Of the cluster; None for the one there is, else one of this machine."""
    cpus_per_rank: int = 1
    """Cores of each rank."""
    gpus_per_rank: int | None = None
    """GPUs of each rank, 0 or 1; None for one if the cluster has any and the device asks for it."""
    max_failures: int = 3
    """How often a peer's ranks start anew after one has died, -1 for always; a lost node does not count."""

    @classmethod
    @override
    def from_settings(cls, settings: Sequence[str]) -> Self:
        given = read_settings(settings, known=_KEYS, on=cls.name)
        gpus = (
            whole_number(given, "gpus-per-rank", minimum=0, default=0) if "gpus-per-rank" in given else None
        )
        if gpus is not None and gpus > 1:
            raise RecipeError(f"gpus-per-rank must be 0 or 1, got {gpus}. A rank trains on one.")
        return cls(
            address=given.get("address"),
            cpus_per_rank=whole_number(given, "cpus-per-rank", minimum=1, default=1),
            gpus_per_rank=gpus,
            max_failures=whole_number(given, "max-failures", minimum=-1, default=3),
        )

    @override
    def check(self, recipe: Recipe) -> None:
        check_installed("ray", _EXTRA)
        check_checkpoints(recipe, on=self.name)

    @override
    def run(
        self, jobs: Sequence[Job], *, ranks: int, on_poll: Callable[[], None], cores: int | None = None
    ) -> None:
        ray = require("ray", _EXTRA)
        needed = len(jobs) * ranks * self.cpus_per_rank
        # What Ray has to say of its workers it prints, whatever it is told; results go to standard output.
        with redirect_stdout(sys.stderr), self._cluster(ray, max(needed, cores or provenance.cores())):
            gpus = self._gpus(ray, jobs, ranks)
            # A task of its own, so that it can be ended, and all that it has started with it: Ray Train
            # (2.60) has no call that ends a trainer.
            fit = ray.remote(num_cpus=0)(_fit)
            fits: dict[Any, Job] = {}
            left: list[Any] = []
            try:
                for job in jobs:
                    words = (str(job.path), str(Path.cwd()), self._scaling(ranks, gpus), self.max_failures)
                    left.append(fit.remote(*words))
                    fits[left[-1]] = job
                while left:
                    ended, left = ray.wait(left, num_returns=1, timeout=_POLL_S)
                    on_poll()
                    for job in jobs:
                        if any(job.error_path(rank).exists() for rank in range(ranks)):
                            raise failure(job, ranks=ranks, how="in Ray")
                    for one in ended:
                        _raise_failure(ray, one, fits[one], ranks)
            finally:
                # Not those that have ended: Ray (2.60) aborts this process when it is told to end a task
                # whose reply it is about to read.
                for one in left:
                    ray.cancel(one, force=True)

    @contextmanager
    def _cluster(self, ray: Any, cores: int) -> Iterator[None]:
        """Be connected to a cluster meanwhile; ``cores`` are those that one of this machine is told of."""
        if ray.is_initialized():
            yield
            return
        try:
            ray.init(address=self.address or "auto", log_to_driver=False)
        except ConnectionError:
            if self.address is not None:
                raise
            ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()

    def _gpus(self, ray: Any, jobs: Sequence[Job], ranks: int) -> int:
        if self.gpus_per_rank is not None:
            return self.gpus_per_rank
        there = ray.cluster_resources().get("GPU", 0)
        return int(jobs[0].device in ("auto", "cuda") and there >= len(jobs) * ranks)

    def _scaling(self, ranks: int, gpus: int) -> dict[str, Any]:
        resources = {"CPU": self.cpus_per_rank, "GPU": gpus}
        return {"num_workers": ranks, "use_gpu": gpus > 0, "resources_per_worker": resources}


def _fit(path: str, folder: str, scaling: Mapping[str, Any], max_failures: int) -> None:
    """Train one peer, from a task of the cluster; ``folder`` is where the user was."""
    train, torch = require("ray.train", _EXTRA), require("ray.train.torch", _EXTRA)
    job = load_job(Path(path))
    trainer = torch.TorchTrainer(
        _train_rank,
        train_loop_config={"job": path, "folder": folder},
        # As `codistill.lab.rank` chooses it.
        torch_config=torch.TorchConfig(backend="cpu:gloo,cuda:nccl" if scaling["use_gpu"] else "gloo"),
        scaling_config=train.ScalingConfig(**scaling),
        run_config=train.RunConfig(
            name=job.peer,
            storage_path=str(job.logs / "ray"),
            failure_config=train.FailureConfig(max_failures=max_failures),
        ),
    )
    trainer.fit()


def _train_rank(config: Mapping[str, str]) -> None:
    """Be one rank of a peer, in a worker of its trainer."""
    job = load_job(Path(config["job"]))
    # Ray Train changes to a folder of its own; recipes and stores may be named from the user's.
    os.chdir(config["folder"])
    with job.log_path.open("ab") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
    context = require("ray.train", _EXTRA).get_context()
    ranks_of_jobs.run_recorded(job, rank=context.get_world_rank(), ranks=context.get_world_size())


def _raise_failure(ray: Any, fit: Any, job: Job, ranks: int) -> None:
    try:
        ray.get(fit)
    except ray.exceptions.RayError as e:
        raise failure(job, ranks=ranks, how=f"in Ray ({type(e).__name__})") from e
