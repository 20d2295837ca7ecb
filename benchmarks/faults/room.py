"""A disk of one's own that can be filled up."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MOUNT, _UNMOUNT = "/bin/mount", "/bin/umount"


@contextmanager
def small_disk(folder: Path, *, size_bytes: int) -> Iterator[bool]:
    """Mount a file system of that size on a folder; yield whether this process may do so."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes}"
    try:
        done = subprocess.run(  # noqa: S603 - fixed words
            [_MOUNT, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
        )
        is_mounted = done.returncode == 0
    except OSError:
        is_mounted = False
    try:
        yield is_mounted
    finally:
        if is_mounted:
            # Lazily: a process that is being killed may still hold a file.
            subprocess.run([_UNMOUNT, "-l", str(folder)], capture_output=True, check=False)  # noqa: S603


def fill(path: Path) -> None:
    """Write a file until nothing more goes on its disk."""
    with path.open("ab", buffering=0) as file:
        for size_bytes in (2**20, 2**12, 1):
            with suppress(OSError):
                while True:
                    if file.write(b"\0" * size_bytes) < size_bytes:
                        break


def is_full_error(error: BaseException | None) -> bool:
    """Return whether an error, or what caused it, says that there is no space left."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return True
        error = error.__cause__
    return False


def free_bytes(folder: Path) -> int:
    """Return how much goes on the disk of a folder."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
