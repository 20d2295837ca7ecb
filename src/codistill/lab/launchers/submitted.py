"""What a job of Slurm runs: the ranks of a peer, and how it comes back."""

import signal
import subprocess
from pathlib import Path
from typing import Any, final

from codistill.extras import require
from codistill.lab import provenance
from codistill.lab.job import load_job
from codistill.lab.launchers import torchrun
from codistill.lab.launchers.failure import failure

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What may come when a job is to leave its node; Slurm sends it to every process of the job."""

_END_S = 10.0


@final
class SubmittedJob:
    """Called in the job, by submitit, which has pickled it: in every life of the job anew.

    It holds a path and numbers: what is trained is read from the job's file, and where to go on from is the
    trainer's own checkpoint.

    Args:
        path: The file of the job.
        ranks: Its processes.
        cores: Cores that they divide; None for all that the job sees.
    """

    def __init__(self, path: Path, *, ranks: int, cores: int | None = None) -> None:
        self._path, self._ranks, self._cores = path, ranks, cores

    def __call__(self) -> None:
        """Run the ranks to their end.

        Raises:
            JobError: If one fails.

        **On failure**: no rank is left, also if this process is killed.
        """
        job = load_job(self._path)
        for rank in range(self._ranks):
            job.traceback_path(rank).unlink(missing_ok=True)
            job.error_path(rank).unlink(missing_ok=True)
        threads = max(1, (self._cores or provenance.cores()) // self._ranks)
        with job.log_path.open("ab") as log:
            # Blocked signals are inherited: the ranks, which the same signals reach, must not die of them
            # before this process has said that the job is to be queued again.
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            try:
                process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                    torchrun.command(job, self._ranks),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=torchrun.environment(threads),
                    start_new_session=True,
                )
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            try:
                code = process.wait()
            finally:
                _end(process)
        if code != 0:
            raise failure(job, ranks=self._ranks, how=f"with exit code {code}")

    def checkpoint(self) -> Any:
        """Return what the job runs in its next life: the same."""
        return require("submitit.helpers", "slurm").DelayedSubmission(self)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the ranks, which end with their standard input, and torchrun, which ends with them."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
