"""With what something was computed: versions and machine, for the documents that results carry."""

import os
import platform
from importlib import metadata

from codistill.version import __version__

_PACKAGES = ("torch", "safetensors", "numpy", "scipy", "scikit-learn", "pillow")


def versions() -> dict[str, str]:
    """Return the versions of Python, of codistill and of the packages that shape its numbers."""
    found = {"python": platform.python_version(), "codistill": __version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int]:
    """Return what kind of machine this is, without its name."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": cores(),
    }


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    # os.process_cpu_count, which knows the affinity, came with Python 3.13.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a device, not a file
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor()
