import pytest
import torch

from codistill.lab import visible_devices
from codistill.lab.visible_devices import divide


@pytest.mark.parametrize(
    ("devices", "jobs", "ranks", "expected"),
    [
        ("", 2, 2, [(), ()]),
        ("0123", 2, 2, [("0", "1"), ("2", "3")]),
        ("01234567", 2, 2, [("0", "1"), ("2", "3")]),
        ("01", 4, 1, [("0",), ("1",), ("0",), ("1",)]),
        # Too few for every rank: a job's own are different as long as there are enough for one job.
        ("0123", 2, 3, [("0", "1", "2"), ("3", "0", "1")]),
        ("01", 2, 4, [("0", "1"), ("0", "1")]),
    ],
)
def test_jobs_get_a_device_a_rank_in_turn(
    devices: str, jobs: int, ranks: int, expected: list[tuple[str, ...]]
) -> None:
    assert divide(tuple(devices), jobs=jobs, ranks=ranks) == expected


@pytest.mark.parametrize(
    ("variable", "count", "expected"),
    [
        (None, 2, ("0", "1")),
        (None, 0, ()),
        ("3, 5", 2, ("3", "5")),
        # CUDA sees what comes before the first name that it does not know.
        ("GPU-8932f937,-1,2", 1, ("GPU-8932f937",)),
        ("", 0, ()),
    ],
)
def test_devices_are_called_what_the_environment_calls_them(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, count: int, expected: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_devices.names() == expected
