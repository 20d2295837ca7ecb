import gc
import os
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    # A million objects that live to the end: the garbage collector need not look through them at every call.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread, a process group, an environment variable or a torch mode behind."""
    threads = set(threading.enumerate())
    environment = _environment()
    dtype, num_threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    new = {thread.name for thread in set(threading.enumerate()) - threads}
    left = new - {"QueueFeederThread"}  # of the queues to a loader's processes: ends when they are collected
    assert not left, f"threads left behind: {left}"
    assert not (dist.is_available() and dist.is_initialized()), "a process group was left behind"
    assert _environment() == environment, "environment variables were changed"
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == dtype
    assert torch.get_num_threads() == num_threads


def _environment() -> dict[str, str]:
    # Pytest sets the first; torch sets the others when an optimizer first imports its compiler.
    own = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_", "TRITON_")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the data sets' folders: CODISTILL_DATA, or shared/data beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("CODISTILL_DATA", beside))
    if not root.is_dir():
        pytest.skip(f"no data sets at {root}: set CODISTILL_DATA to the folder that holds theirs")
    return root
