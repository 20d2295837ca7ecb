"""The most memory a run has held."""

import contextlib
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def forget(device: torch.device) -> None:
    """Begin to look for the peak anew, where the system lets a process: on CUDA, and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        # 5 sets the high-water mark back to what is held now; see proc(5).
        _CLEAR.write_text("5")


def peak_bytes(device: torch.device) -> int | None:
    """Return the peak since `forget`: of the device's allocator on CUDA, else of the whole process.

    None where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("VmHWM:")]
    return int(found[0][1]) * 1024 if found else None
