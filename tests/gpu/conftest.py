import pytest
import torch


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where a test runs: everywhere on the CPU, so that it is known to run, and on a GPU if there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU: torch.cuda.is_available() is False")
    return torch.device(request.param)


@pytest.fixture
def gpu() -> torch.device:
    """A GPU, for what a CPU cannot show."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch.cuda.is_available() is False")
    return torch.device("cuda")
