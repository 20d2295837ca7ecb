"""Jobs as processes of this machine."""

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import ClassVar, Self, final

from typing_extensions import override

from codistill.lab import provenance, visible_devices
from codistill.lab.job import Job
from codistill.lab.launchers import torchrun
from codistill.lab.launchers.base import Launcher
from codistill.lab.launchers.failure import failure
from codistill.lab.launchers.settings import read_settings

_POLL_S = 0.05
_TERMINATION_S = 20.0


@final
class LocalLauncher(Launcher):
    """Runs jobs side by side on this machine.

    Cores, and CUDA devices unless one is named, are divided among the jobs. No job outlives `run`, also if
    this process is interrupted or killed.
    """

    name: ClassVar[str] = "local"
    is_here: ClassVar[bool] = True

    @classmethod
    @override
    def from_settings(cls, settings: Sequence[str]) -> Self:
        read_settings(settings, known=(), on=cls.name)
        return cls()

    @override
    def run(
        self, jobs: Sequence[Job], *, ranks: int, on_poll: Callable[[], None], cores: int | None = None
    ) -> None:
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
                    torchrun.command(job, ranks),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=torchrun.environment(threads, own_devices),
                    # Ctrl-C then reaches this process alone, which ends the jobs in order.
                    start_new_session=True,
                )
            while True:
                codes = {peer: process.poll() for peer, process in processes.items()}
                on_poll()
                for job in jobs:
                    if codes[job.peer]:
                        raise failure(job, ranks=ranks, how=f"with exit code {codes[job.peer]}")
                if all(code == 0 for code in codes.values()):
                    return
                time.sleep(_POLL_S)


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
