from collections.abc import Callable

import pytest

from codistill.planner import Job, Model


@pytest.fixture
def small() -> Callable[..., Job]:
    """Return a function that makes two peers of a rank each, with fields of a Job replaced."""
    fields = {
        "model": Model(parameters=1_000_000, tensors=10),
        "peers": 2,
        "batch_per_peer": 32,
        "outputs": 1000,
    }
    return lambda **others: Job(**{**fields, **others})


@pytest.fixture
def resnet_50() -> Callable[..., Job]:
    """Return a function that makes the setting of Sodhani et al. (section 3.1): 2 x 8 GPUs of 32 images."""
    fields = {
        "model": Model(parameters=25_600_000, tensors=320),
        "peers": 2,
        "ranks_per_peer": 8,
        "batch_per_peer": 256,
        "outputs": 1000,
        "interval_steps": 2500,
    }
    return lambda **others: Job(**{**fields, **others})
