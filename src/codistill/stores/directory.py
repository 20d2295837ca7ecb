"""A store in a folder of a file system that all peers see."""

import errno
import heapq
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from typing_extensions import override

from codistill.errors import KeyMissingError, StoreError
from codistill.stores.base import Store

# Each attempt fails only if a delete prunes the folder in the instant between making and using it.
_ATTEMPTS = 100
# Windows has neither the flag nor what it is needed for.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})


class DirectoryStore(Store):
    """Keeps each value in a file below one folder: a local disk, NFS, Lustre, a bind mount.

    Values appear by renaming a hidden temporary file in the same folder, so that a reader never sees
    part of one. Nothing is flushed to the disk (no ``fsync``): snapshots are not checkpoints. A power
    failure may lose the newest ones, and the digests in the manifests refuse whatever is torn; waiting
    for the disk at every publish would cost more than that. A process killed while it writes leaves
    its temporary file, whose name begins with a dot and which is never listed; ``sweep`` removes it.

    **Ranks**: any process that sees the folder; files get the permissions of the process's umask.
    **Blocks**: as long as the file system does, which for a lost NFS server is until it is back.
    **On failure**: the former value stays and the temporary file is removed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = DirectoryStore(folder)
        ...     store.create("run.json", b"{}"), store.create("run.json", b"[]")
        (True, False)
    """

    def __init__(self, path: str | os.PathLike[str], *, is_read_only: bool = False) -> None:
        """Make the folder if it is not there.

        Args:
            path: The folder; ``~`` is the home folder, and a relative path is relative to the
                working directory of this moment.
            is_read_only: Only look at a folder that is there, without making or probing anything.

        Raises:
            StoreError: If it cannot be made, or nothing can be written to it; or if it is to be read
                only and is not there.
        """
        self._root = Path(path).expanduser().absolute()
        if is_read_only:
            if not self._root.is_dir():
                raise StoreError(
                    f"store must be a folder that is there, got '{self._root}'. Check its spelling, or "
                    "start a peer first."
                )
            return
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            probe = self._temporary_in(self._root)
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as e:
            raise StoreError(
                f"store must be a folder that this process may make and write to, got '{self._root}' "
                f"({e.strerror or e}). Choose another folder, or have its permissions changed."
            ) from e

    @override
    def describe(self) -> str:
        return str(self._root)

    @override
    def _read(self, key: str, *, max_bytes: int, start: int) -> bytes:
        with self._opened(key) as file:
            file.seek(start)
            return file.read(max_bytes)

    @override
    def _read_into(self, key: str, buffer: memoryview, *, start: int) -> int:
        with self._opened(key) as file:
            file.seek(start)
            return file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]  # typeshed: io only

    @override
    def _write(self, key: str, content: bytes | memoryview | Path) -> None:
        if isinstance(content, Path):
            with (
                content.open("rb") as source,
                self._errors("write", key),
                self._staged(key, source) as staged,
            ):
                staged.replace(self._path(key))
        else:
            with self._errors("write", key), self._staged(key, content) as staged:
                staged.replace(self._path(key))

    @override
    def _create(self, key: str, content: bytes) -> bool:
        with self._errors("create", key), self._staged(key, content) as staged:
            try:
                self._path(key).hardlink_to(staged)
            except OSError as e:
                # NFS may repeat a request whose answer was lost, and then reports an error for a link
                # that it has made; the count of links tells (open(2), on O_EXCL).
                if staged.stat().st_nlink == 2:
                    return True
                if isinstance(e, FileExistsError):
                    return False
                if e.errno not in _NO_HARD_LINKS:
                    raise
                raise StoreError(
                    f"{self._root} could not create {key!r} ({e.strerror or e}). The store needs a file "
                    "system with hard links, to create a file only if there is none: choose a folder on one.",
                    key=key,
                ) from e
            return True

    @override
    def _delete(self, key: str) -> None:
        path = self._path(key)
        with self._errors("delete", key):
            if path.is_dir():
                return
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
        for folder in path.parents:
            if folder == self._root:
                break
            try:
                folder.rmdir()
            except OSError:  # not empty, or another process was faster
                break

    @override
    def _list_names(self, prefix: str, *, limit: int) -> list[str]:
        with self._errors("list", prefix):
            try:
                with os.scandir(self._root / prefix) as entries:
                    return heapq.nsmallest(limit, (e.name for e in entries if not e.name.startswith(".")))
            except (FileNotFoundError, NotADirectoryError):
                return []

    @override
    def _sweep(self, prefix: str) -> None:
        with self._errors("sweep", prefix):
            for file in list((self._root / prefix).rglob(".*.tmp")):
                file.unlink(missing_ok=True)
                with suppress(OSError):  # not empty
                    file.parent.rmdir()

    @contextmanager
    def _opened(self, key: str) -> Iterator[BinaryIO]:
        with self._errors("read", key):
            try:
                # Opening a pipe or a device that somebody has put there must not wait for its other end.
                # Buffered, since it reads until all is there: a system call may come back with less.
                with open(os.open(self._path(key), os.O_RDONLY | _NO_WAIT), "rb") as file:  # noqa: PTH123
                    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                        raise FileNotFoundError(errno.ENOENT, "not a regular file")
                    yield file
            # A folder, or something below a file, is no value either.
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as e:
                raise KeyMissingError(f"Nothing is stored under {key!r} in {self._root}.", key=key) from e

    def _path(self, key: str) -> Path:
        return self._root / key

    def _temporary_in(self, folder: Path) -> Path:
        return folder / f".{uuid.uuid4().hex}.tmp"

    @contextmanager
    def _staged(self, key: str, content: bytes | memoryview | BinaryIO) -> Iterator[Path]:
        """Yield a temporary file with the content, beside where the key's file will be."""
        path, file = self._open_beside(key)
        try:
            with file:
                if isinstance(content, bytes | memoryview):
                    file.write(content)
                else:
                    shutil.copyfileobj(content, file)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _open_beside(self, key: str) -> tuple[Path, BinaryIO]:
        folder = self._path(key).parent
        for attempt in range(_ATTEMPTS):
            path = self._temporary_in(folder)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                return path, path.open("xb")
            except (FileNotFoundError, FileExistsError):
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable: the last attempt returned or raised")

    @contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except OSError as e:
            raise StoreError(
                f"{self._root} could not {verb} {key!r} ({e.strerror or e}). Check that the folder is "
                "mounted, writable and has space left.",
                key=key,
            ) from e
