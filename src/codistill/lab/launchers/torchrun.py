"""The ranks of one job on one machine: started by torchrun, if there are several."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from codistill.lab import visible_devices
from codistill.lab.job import Job

# Where this process is a rank itself, its jobs are not.
_OF_A_RANK = ("RANK", "WORLD_SIZE")


def command(job: Job, ranks: int) -> list[str]:
    """Return the words that start a job; its ranks end when their standard input does."""
    program = ["-m", "codistill.lab.rank", str(job.path), "--end-with-stdin"]
    if ranks == 1:
        # It meets nobody; torchrun would be a second process with a PyTorch of its own.
        return [sys.executable, *program]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    # The machine's own name may not resolve.
    return [*launcher, "--local-addr=127.0.0.1", *program]


def environment(threads: int, devices: Sequence[str] = ()) -> dict[str, str]:
    """Return the environment of a job.

    Args:
        threads: Of every rank.
        devices: The CUDA devices it is to see; those that this process sees if empty.
    """
    variables = dict(os.environ, OMP_NUM_THREADS=str(threads))
    for name in _OF_A_RANK:
        variables.pop(name, None)
    if devices:
        variables[visible_devices.VARIABLE] = ",".join(devices)
    if Path("/sys/class/net/lo").exists():
        # Gloo otherwise looks for the address of the machine's name, which may not resolve either.
        variables.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return variables
