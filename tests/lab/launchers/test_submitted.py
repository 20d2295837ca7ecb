import signal
import sys
from pathlib import Path

import pytest

from codistill.errors import JobError
from codistill.lab import folder
from codistill.lab.job import Job, save_job
from codistill.lab.launchers import torchrun
from codistill.lab.launchers.submitted import SubmittedJob
from codistill.lab.recipe import Recipe


@pytest.fixture
def job(tiny: Recipe, tmp_path: Path) -> Job:
    folder.create(tmp_path, arms=[tiny], seeds=[tiny.seed], command=[])
    made = Job(
        peer="a",
        recipes=(tiny,),
        out=tmp_path,
        logs=tmp_path,
        data_root=tmp_path,
        device="cpu",
        read_test=False,
    )
    save_job(made)
    return made


def run_in_place_of_ranks(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(torchrun, "command", lambda job, ranks: [sys.executable, "-c", program])


@pytest.mark.spawn
def test_ranks_do_not_die_of_the_signals_that_slurm_sends_to_all_processes_of_a_job(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import os, signal\n"
        "os.kill(os.getpid(), signal.SIGTERM), os.kill(os.getpid(), signal.SIGUSR2)\n"
        "print('alive', os.environ['OMP_NUM_THREADS'], flush=True)\n"
    )
    run_in_place_of_ranks(monkeypatch, program)
    called = SubmittedJob(job.path, ranks=2, cores=6)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    called()
    called()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    # The log of a life goes on where that of the one before ended.
    assert job.log_path.read_text() == "alive 3\n" * 2


@pytest.mark.spawn
def test_a_job_that_fails_says_what_its_ranks_left_in_this_life(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.error_path(0).write_text("of the life before")
    run_in_place_of_ranks(monkeypatch, "print('last words'); raise SystemExit(3)")
    with pytest.raises(JobError, match=r"failed with exit code 3\. .*\nlast words$"):
        SubmittedJob(job.path, ranks=1)()


def test_what_runs_in_the_next_life_is_the_same(job: Job) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    called = SubmittedJob(job.path, ranks=1)
    assert called.checkpoint().function is called
