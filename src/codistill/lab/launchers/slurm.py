"""Jobs of Slurm, through submitit: each peer one job, on one node."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, final

from typing_extensions import override

from codistill.errors import JobError, RecipeError, RunExistsError
from codistill.extras import check_installed, require
from codistill.lab import documents
from codistill.lab.job import Job, load_job
from codistill.lab.launchers.base import Launcher, check_checkpoints
from codistill.lab.launchers.failure import failure
from codistill.lab.launchers.slurm_settings import SlurmSettings
from codistill.lab.launchers.submitted import SubmittedJob
from codistill.lab.recipe import Recipe

_EXTRA = "slurm"
_POLL_S = 1.0
# A life that brings no run further must not be repeated for ever.
_MOST_TIMEOUTS = 100


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmLauncher(Launcher):
    """Submits each peer as a job of Slurm, and waits for their results.

    Jobs live on when the process that submitted them ends: a later call that resumes the run finds them, and
    waits for them in place of submitting others. A job that is preempted, or whose time is over, is queued
    again, and goes on from its checkpoint. Its ranks are on one node, started by torchrun.

    submitit pickles what a job calls into ``<logs>/slurm/``, and reads there how a job ended.
    """

    name: ClassVar[str] = "slurm"

    settings: SlurmSettings
    """What each job asks for."""
    cluster: Literal["slurm", "local"] = "slurm"
    """"local" runs the jobs on this machine, with submitit's local executor: for trying it out."""

    @classmethod
    @override
    def from_settings(cls, settings: Sequence[str]) -> Self:
        return cls(settings=SlurmSettings.read(settings))

    @override
    def check(self, recipe: Recipe) -> None:
        check_installed("submitit", _EXTRA)
        check_checkpoints(recipe, on=self.name)

    @override
    def check_system(self) -> None:
        if self.cluster == "slurm" and _submitit().SlurmExecutor.affinity() < 0:
            raise RecipeError(
                "on must be a system that is there, got 'slurm', whose srun is not on the PATH. "
                "Call this where you call sbatch, or pass --dry-run to see what would be submitted."
            )

    @override
    def is_running(self, job: Job) -> bool:
        earlier = self._submitted_earlier(job)
        if earlier is None or earlier.done(force_check=True):
            return False
        told = {(recipe.label, recipe.seed) for recipe in load_job(job.path).recipes}
        if not told.issuperset((recipe.label, recipe.seed) for recipe in job.recipes):
            raise RunExistsError(
                f"The job of peer {job.peer!r} must train these runs, and job {earlier.job_id}, which still "
                f"runs or waits, trains others. Wait for it, or end it: scancel {earlier.job_id}",
                peer=job.peer,
            )
        return True

    @override
    def run(
        self, jobs: Sequence[Job], *, ranks: int, on_poll: Callable[[], None], cores: int | None = None
    ) -> None:
        submitted: dict[str, Any] = {
            job.peer: self._submitted_earlier(job) for job in jobs if self.is_running(job)
        }
        new: dict[str, Any] = {}
        share = None if cores is None else max(1, cores // len(jobs))
        for job in jobs:
            if job.peer in submitted:
                continue
            try:
                new[job.peer] = self._submit(job, ranks, share)
            except JobError:
                # Half a run in the queue is of no use.
                _cancel(new)
                raise
        submitted |= new
        left = list(jobs)
        while True:
            ended = [job for job in left if submitted[job.peer].done()]
            on_poll()
            for job in ended:
                # Asked first, as it waits until what the job has written is to be seen here.
                error = submitted[job.peer].exception()
                if job.unfinished():
                    _cancel(submitted, but=job.peer)
                    raise failure(job, ranks=ranks, how=_how(submitted[job.peer].job_id, error))
                left.remove(job)
            if not left:
                return
            time.sleep(_POLL_S)

    def scripts(self, jobs: Sequence[Job], *, ranks: int) -> dict[str, str]:
        """Return what would be submitted, by peer; Slurm need not be there, and nothing is written."""
        submitit = _submitit()

        class Anywhere(submitit.SlurmExecutor):  # type: ignore[misc, name-defined]
            @classmethod
            def affinity(cls) -> int:
                return 1

        scripts = {}
        for job in jobs:
            executor = Anywhere(_folder(job))
            executor.update_parameters(**self._parameters(job, ranks))
            # There is no public way to the text (submitit 1.5).
            scripts[job.peer] = str(
                executor._make_submission_file_text(executor._submitit_command_str, job.peer)
            )
        return scripts

    def _submit(self, job: Job, ranks: int, cores: int | None) -> Any:
        submitit = _submitit()
        folder = _folder(job)
        if self.cluster == "slurm":
            executor = submitit.SlurmExecutor(folder, max_num_timeout=_MOST_TIMEOUTS)
            executor.update_parameters(**self._parameters(job, ranks))
        else:
            executor = submitit.LocalExecutor(folder)
            executor.update_parameters(timeout_min=self.settings.time_minutes, stderr_to_stdout=True)
        try:
            submitted = executor.submit(SubmittedJob(job.path, ranks=ranks, cores=cores))
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as e:
            raise JobError(f"The job of peer {job.peer!r} could not be submitted: {e}", peer=job.peer) from e
        documents.write_json(_record(job), {"job_id": submitted.job_id})
        return submitted

    def _parameters(self, job: Job, ranks: int) -> Mapping[str, Any]:
        cpus = self.settings.cpus_per_task or ranks
        return {
            "job_name": f"{job.recipes[0].name}-{job.peer}",
            "time": self.settings.time_minutes,
            "signal_delay_s": self.settings.signal_delay_s,
            "nodes": 1,
            # torchrun is the one task; the ranks are its children.
            "ntasks_per_node": 1,
            "cpus_per_task": cpus,
            # Since Slurm 22.05 srun does not take over what sbatch was told.
            "srun_args": [f"--cpus-per-task={cpus}"],
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True},
            # submitit's own is a word that a cluster with accounting by such words refuses.
            "wckey": None,
            **self.settings.others,
        }

    def _submitted_earlier(self, job: Job) -> Any | None:
        """Return the job that an earlier call has submitted, None if there was none."""
        if self.cluster != "slurm" or not _record(job).exists():
            return None
        job_id = documents.read_json(_record(job))["job_id"]
        return _submitit().SlurmJob(_folder(job), job_id)


def _submitit() -> Any:
    return require("submitit", _EXTRA)


def _folder(job: Job) -> Path:
    """Return the folder of what submitit writes."""
    return job.logs / "slurm"


def _record(job: Job) -> Path:
    """Return the file that says which job was submitted."""
    return job.logs / f"{job.peer}.slurm.json"


def _how(job_id: str, error: Exception | None) -> str:
    said = "" if error is None else next(iter(str(error).strip().splitlines()), "")
    return f"as job {job_id} of Slurm ({said})" if said else f"as job {job_id} of Slurm"


def _cancel(submitted: Mapping[str, Any], *, but: str | None = None) -> None:
    for peer, other in submitted.items():
        if peer != but and not other.done():
            other.cancel(check=False)
