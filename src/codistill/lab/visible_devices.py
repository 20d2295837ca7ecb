"""Which CUDA devices each of several jobs on one machine is to see."""

import os
from collections.abc import Sequence

import torch

VARIABLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable that CUDA reads them from."""


def names() -> tuple[str, ...]:
    """Return what the variable calls the devices that this process sees."""
    count = torch.cuda.device_count()
    given = os.environ.get(VARIABLE)
    if given is None:
        return tuple(map(str, range(count)))
    # CUDA stops at the first name that it does not know.
    return tuple(name.strip() for name in given.split(",")[:count])


def divide(devices: Sequence[str], *, jobs: int, ranks: int) -> list[tuple[str, ...]]:
    """Return the devices of each job: one a rank, taken in turn.

    Where there are fewer devices than ranks, jobs share them, and then ranks of one job.

    Args:
        devices: What there is; perhaps nothing.
        jobs: How many jobs.
        ranks: How many ranks each has.

    Example:
        >>> divide(["0", "1", "2", "3"], jobs=2, ranks=2)
        [('0', '1'), ('2', '3')]
        >>> divide(["0", "1"], jobs=3, ranks=1)
        [('0',), ('1',), ('0',)]
        >>> divide(["0"], jobs=2, ranks=2)
        [('0',), ('0',)]
    """
    taken = min(ranks, len(devices))
    return [
        tuple(devices[(job * ranks + rank) % len(devices)] for rank in range(taken)) for job in range(jobs)
    ]
