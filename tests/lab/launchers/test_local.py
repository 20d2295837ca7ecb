import os
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from codistill.errors import CodistillError, JobError
from codistill.lab import folder, visible_devices
from codistill.lab.job import Job, save_job
from codistill.lab.launchers import local, torchrun
from codistill.lab.launchers.local import LocalLauncher
from codistill.lab.recipe import Recipe

pytestmark = pytest.mark.spawn


def make_job(out: Path, recipe: Recipe, *, peer: str, device: str = "cpu") -> Job:
    folder.create(out, arms=[recipe], seeds=[recipe.seed], command=[], if_exists="resume")
    job = Job(
        peer=peer,
        recipes=(recipe,),
        out=out,
        logs=out / "logs",
        data_root=out,
        device=device,
        read_test=False,
    )
    job.logs.mkdir(exist_ok=True)
    save_job(job)
    return job


def processes_of(job: Job) -> list[int]:
    """Return the ids of the running processes that were given a job."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(job.path).encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # it has ended in the meantime
            continue
    return found


def test_a_failing_peer_ends_the_others_and_its_traceback_is_shown(tiny: Recipe, tmp_path: Path) -> None:
    # In lockstep a would wait for b for half an hour.
    waiting = make_job(tmp_path, tiny, peer="a")
    failing = make_job(tmp_path, tiny, peer="b", device="warp")
    with pytest.raises(CodistillError, match="The job of peer 'b' failed with exit code 1") as caught:
        LocalLauncher().run([waiting, failing], ranks=1, on_poll=lambda: None)
    assert caught.value.peer == "b"
    assert "Traceback (most recent call last)" in str(caught.value)
    assert str(failing.log_path) in str(caught.value)
    assert str(caught.value).splitlines()[-1].startswith("RuntimeError: ")
    assert processes_of(waiting) == []


def test_a_job_that_dies_without_a_traceback_shows_the_end_of_its_log(tiny: Recipe, tmp_path: Path) -> None:
    job = make_job(tmp_path, tiny, peer="a")
    job.path.write_text("{")
    with pytest.raises(CodistillError, match=r"a\.job\.json must hold JSON"):
        LocalLauncher().run([job], ranks=1, on_poll=lambda: None)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Replace the jobs by commands: peer to program of Python."""
    programs: dict[str, str] = {}
    monkeypatch.setattr(
        torchrun, "command", lambda job, ranks: [sys.executable, "-c", programs.get(job.peer, "")]
    )
    return programs


def test_what_a_user_can_mend_is_said_without_its_traceback(
    tiny: Recipe, tmp_path: Path, commands: dict[str, str]
) -> None:
    job = make_job(tmp_path, tiny, peer="a")
    said = "peer must be a name that no other live job has, got 'a'."
    job.error_path(1).write_text(said)
    job.traceback_path(0).write_text("Traceback of a rank that lost the other\n")
    commands["a"] = "raise SystemExit(1)"
    with pytest.raises(JobError) as caught:
        LocalLauncher().run([job], ranks=2, on_poll=lambda: None)
    assert str(caught.value) == f"The job of peer 'a' failed: {said} Its log is {job.log_path}."


def test_of_several_ranks_the_one_that_failed_first_is_shown(
    tiny: Recipe, tmp_path: Path, commands: dict[str, str]
) -> None:
    job = make_job(tmp_path, tiny, peer="a")
    for rank, seconds in ((1, 100), (0, 200)):
        job.traceback_path(rank).write_text(f"Traceback of rank {rank}\n")
        os.utime(job.traceback_path(rank), (seconds, seconds))
    commands["a"] = "raise SystemExit(3)"
    with pytest.raises(JobError, match=r"failed with exit code 3\. .*\nTraceback of rank 1$"):
        LocalLauncher().run([job], ranks=2, on_poll=lambda: None)


@pytest.mark.parametrize(
    ("device", "expected"), [("auto", ["0,1", "2,3"]), ("cuda", ["0,1", "2,3"]), ("cuda:1", ["-", "-"])]
)
def test_each_job_sees_its_own_devices_and_has_its_share_of_the_cores(
    tiny: Recipe,
    tmp_path: Path,
    commands: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    expected: list[str],
) -> None:
    monkeypatch.setattr(visible_devices, "names", lambda: ("0", "1", "2", "3"))
    monkeypatch.setattr(local.provenance, "cores", lambda: 9)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    jobs = [make_job(tmp_path, tiny, peer=peer, device=device) for peer in "ab"]
    for peer in "ab":
        commands[peer] = (
            "import os; e = os.environ; print(e.get('CUDA_VISIBLE_DEVICES', '-'), e['OMP_NUM_THREADS'])"
        )
    LocalLauncher().run(jobs, ranks=2, on_poll=lambda: None)
    assert [job.log_path.read_text() for job in jobs] == [f"{devices} 2\n" for devices in expected]


def test_an_interrupt_ends_all_jobs(tiny: Recipe, tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, replace(tiny, updates=10**6), peer=peer) for peer in "ab"]

    def interrupt_once_training() -> None:
        if all((tmp_path / "codistillation" / "seed-3" / peer / "metrics.jsonl").exists() for peer in "ab"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalLauncher().run(jobs, ranks=1, on_poll=interrupt_once_training)
    assert [processes_of(job) for job in jobs] == [[], []]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_no_job_outlives_a_launcher_that_is_killed(tiny: Recipe, tmp_path: Path) -> None:
    job = make_job(tmp_path, replace(tiny, method="alone", peers=1, updates=10**6), peer="a")
    program = (
        "import sys; from pathlib import Path\n"
        "from codistill.lab.job import load_job\n"
        "from codistill.lab.launchers.local import LocalLauncher\n"
        "metrics = Path(sys.argv[2])\n"
        "LocalLauncher().run([load_job(Path(sys.argv[1]))], ranks=1,"
        " on_poll=lambda: metrics.exists() and print('training', flush=True))\n"
    )
    metrics = tmp_path / "alone" / "seed-3" / "a" / "metrics.jsonl"
    command = [sys.executable, "-c", program, str(job.path), str(metrics)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == b"training\n"
        left = processes_of(job)
        launcher.send_signal(signal.SIGKILL)
    assert len(left) >= 2
    for process in left:
        wait_for_end(process)


def wait_for_end(process: int) -> None:
    """Wait until a process, which is no child of this one, has ended."""
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([handle], [], [], 60)
        assert ready, f"process {process} lives on"
    finally:
        os.close(handle)
