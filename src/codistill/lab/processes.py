"""Jobs as operating-system processes, started by torchrun's own launcher."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from codistill.errors import JobError
from codistill.lab import provenance, visible_devices
from codistill.lab.job import Job

_POLL_S = 0.05
_TERMINATION_S = 20.0
_LOG_LINES = 40


def run_jobs(
    jobs: Sequence[Job], *, ranks: int, on_poll: Callable[[], None], cores: int | None = None
) -> None:
    """Run jobs side by side until all have finished; if one fails, end the others.

    Cores, and CUDA devices unless one is named, are divided among the jobs.

    Args:
        jobs: One a peer, written to their files, all for the same device.
        ranks: Processes of every job.
        on_poll: Called several times a second; what it raises ends the jobs.
        cores: Cores to divide; all of the machine's if not given.

    Raises:
        JobError: If a job fails; the message says what hindered it, or ends with its traceback.

    **Blocks**: until all have finished.

    **On failure**: no job is left running, also if this process is interrupted or killed.
    """
    threads = max(1, (cores or provenance.cores()) // (len(jobs) * ranks))
    devices: list[tuple[str, ...]] = [()] * len(jobs)
    if jobs[0].device in ("auto", "cuda"):
        devices = visible_devices.divide(visible_devices.names(), jobs=len(jobs), ranks=ranks)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    with ExitStack() as stack:
        stack.callback(lambda: _end(list(processes.values())))
        for job, own_devices in zip(jobs, devices, strict=True):
            log = stack.enter_context(job.log_path.open("wb"))
            processes[job.peer] = subprocess.Popen(  # noqa: S603 - our own program, no shell
                _command(job, ranks),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(threads, own_devices),
                # Ctrl-C then reaches this process alone, which ends the jobs in order.
                start_new_session=True,
            )
        while True:
            codes = {peer: process.poll() for peer, process in processes.items()}
            on_poll()
            for job in jobs:
                if codes[job.peer]:
                    raise JobError(_failure(job, codes[job.peer], ranks), peer=job.peer)
            if all(code == 0 for code in codes.values()):
                return
            time.sleep(_POLL_S)


def _command(job: Job, ranks: int) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    # The machine's own name may not resolve.
    program = ["-m", "codistill.lab.rank", str(job.path), "--end-with-stdin"]
    return [*launcher, "--local-addr=127.0.0.1", *program]


def _environment(threads: int, devices: Sequence[str]) -> dict[str, str]:
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    if devices:
        environment[visible_devices.VARIABLE] = ",".join(devices)
    if Path("/sys/class/net/lo").exists():
        # Gloo otherwise looks for the address of the machine's name, which may not resolve either.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment


def _failure(job: Job, code: int | None, ranks: int) -> str:
    errors = _oldest_first(map(job.error_path, range(ranks)))
    if errors:
        return f"The job of peer {job.peer!r} failed: {_read(errors[0])} Its log is {job.log_path}."
    source = [*_oldest_first(map(job.traceback_path, range(ranks))), job.log_path][0]
    lines = "\n".join(_read(source).splitlines()[-_LOG_LINES:])
    return f"The job of peer {job.peer!r} failed with exit code {code}. Its log is {job.log_path}.\n{lines}"


def _oldest_first(paths: Iterable[Path]) -> list[Path]:
    """Return those that exist: what failed first made the other ranks fail."""
    return sorted((path for path in paths if path.exists()), key=lambda path: path.stat().st_mtime_ns)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip()


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End the launchers that still run; each ends its own ranks when it is terminated."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + _TERMINATION_S
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for process in processes:
        if process.stdin is not None:
            process.stdin.close()
