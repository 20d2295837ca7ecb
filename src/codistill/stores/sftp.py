"""A store in a folder of an SSH server."""

import heapq
import io
import os
import posixpath
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, final
from urllib.parse import unquote

from typing_extensions import override

from codistill.errors import CodistillError, KeyMissingError, StoreError
from codistill.extras import require
from codistill.stores.base import Store
from codistill.stores.ssh import SshConnection
from codistill.stores.urls import split_url

SFTP_SCHEMES: Final = ("sftp", "ssh")

# Each attempt fails only if a delete prunes the folder in the instant between making and using it.
_ATTEMPTS = 100
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_PIECE_BYTES = 32 * 1024  # what every SFTP server takes in one request
_READ, _DATA = 5, 103  # of the protocol
_PIECES_AHEAD = 64  # the requests that OpenSSH's server keeps


@final
class SftpStore(Store):
    """Keeps each value in a file below one folder of an SSH server: ``sftp://[user[:password]@]host[:port]/path``.

    Needs the extra ``sftp``. ``/~/path`` is relative to the home folder there. Logs in as `SshConnection`
    says: with the agent or the keys in ``~/.ssh``, or the password of the URL (its reserved characters
    percent-encoded), which is never shown; to servers in ``known_hosts`` only. A value is written to a
    hidden temporary file and renamed: over the former one by ``posix-rename@openssh.com``, or, to create
    it, by the plain rename, which fails if there is a file. OpenSSH's server does both; another one is
    tried out when the store is opened. A process killed while it writes leaves its temporary file, which
    is never listed.

    **Ranks**: any process that may log in; threads share one login, and a forked child makes its own.
    **Blocks**: until the server has been silent for `codistill.stores.ssh.READ_TIMEOUT_S`, or could not be
    reached within a few `codistill.stores.ssh.CONNECT_TIMEOUT_S`.
    **On failure**: the former value stays, and the temporary file is removed if the server still answers.
    """

    def __init__(self, url: str, *, is_read_only: bool = False) -> None:
        """Log in, make the folder if it is not there, and try out what the server can.

        Args:
            url: As above.
            is_read_only: Only look at a folder that is there, without making or probing anything.

        Raises:
            ValueError: If the URL is malformed.
            ExtraMissingError: If paramiko is not installed.
            StoreError: If the login fails, the folder cannot be made or written to, or the server lacks
                one of the two renames; or if it is to be read only and is not there.
        """
        parts = split_url(url)
        host = _HOST.fullmatch(parts.host)
        if parts.scheme not in SFTP_SCHEMES or host is None or not parts.path:
            raise ValueError(
                "store must be 'sftp://[user[:password]@]host[:port]/path', got another form. Percent-encode "
                "reserved characters in the user and password, such as '/' as %2F and '@' as %40."
            )
        user, _, password = (parts.credentials or "").partition(":")
        self._login: dict[str, Any] = {
            "host": host[1].strip("[]"),
            "port": int(host[2]) if host[2] else None,
            "user": unquote(user) or None,
            "password": unquote(password) or None,
        }
        self._connections: dict[int, SshConnection] = {}
        path = unquote(parts.path)
        # Relative paths begin at home.
        self._root = path[2:] or "." if path == "~" or path.startswith("~/") else f"/{path}"
        self._url = f"sftp://{parts.host}/{path}"
        with self._errors("be opened", ""):
            try:
                if is_read_only:
                    self._check_folder()
                else:
                    self._probe()
            except BaseException:
                self.close()
                raise

    @override
    def close(self) -> None:
        """End this process's login; the next verb makes another."""
        connection = self._connections.pop(os.getpid(), None)
        if connection is not None:
            connection.close()

    @override
    def describe(self) -> str:
        return self._url

    @override
    def _read(self, key: str, *, max_bytes: int, start: int) -> bytes:
        with self._errors("read", key):
            try:
                with self._sftp() as sftp, sftp.open(self._path(key), "rb") as file:
                    attributes = file.stat()
                    if stat.S_ISDIR(attributes.st_mode):
                        raise FileNotFoundError(f"{key} is a folder")
                    wanted = min(max_bytes, attributes.st_size - start)
                    if wanted <= 0:
                        return b""
                    content = _read_ahead(sftp, file, start, wanted)
                    if len(content) != wanted:
                        raise EOFError("the server sent less than it has")
                    return content
            except FileNotFoundError as e:
                raise KeyMissingError(f"Nothing is stored under {key!r} in {self._url}.", key=key) from e

    @override
    def _write(self, key: str, content: bytes | memoryview | Path) -> None:
        # Opened outside, so that a file that is not there is the caller's error.
        source = content.open("rb") if isinstance(content, Path) else _reader(content)
        with source, self._errors("write", key):
            self._put(key, source)

    @override
    def _create(self, key: str, content: bytes) -> bool:
        with self._errors("create", key):
            return self._put_if_absent(key, content)

    @override
    def _delete(self, key: str) -> None:
        with self._errors("delete", key):
            self._remove(key)

    @override
    def _list_names(self, prefix: str, *, limit: int) -> list[str]:
        with self._errors("list", prefix), self._sftp() as sftp:
            try:
                names = sftp.listdir(self._path(prefix))
            except FileNotFoundError:
                return []
            return heapq.nsmallest(limit, (name for name in names if not name.startswith(".")))

    @override
    def _sweep(self, prefix: str) -> None:
        with self._errors("sweep", prefix), self._sftp() as sftp:
            folders = [self._path(prefix)]
            while folders:
                folder = folders.pop()
                try:
                    entries = sftp.listdir_attr(folder)
                except FileNotFoundError:
                    continue
                for entry in entries:
                    path = posixpath.join(folder, entry.filename)
                    if stat.S_ISDIR(entry.st_mode or 0):
                        folders.append(path)
                    elif entry.filename.startswith(".") and entry.filename.endswith(".tmp"):
                        with suppress(FileNotFoundError):
                            sftp.remove(path)

    def _path(self, key: str) -> str:
        return posixpath.join(self._root, key) if key else self._root

    def _check_folder(self) -> None:
        with self._sftp() as sftp:
            mode = _mode(sftp, self._root)
        if mode is None or not stat.S_ISDIR(mode):
            raise StoreError(
                f"{self._url} must be a folder that is there, and is not. Check its spelling, or "
                "start a peer first."
            )

    def _probe(self) -> None:
        key = f".{uuid.uuid4().hex}.tmp"
        is_exclusive = self._put_if_absent(key, b"") and not self._put_if_absent(key, b"")
        try:
            self._put(key, io.BytesIO())
        except OSError as e:
            if "unsupported" not in str(e).lower():
                raise
            raise StoreError(
                f"{self._url} must be on a server that knows posix-rename@openssh.com, to replace a file at "
                "once, and it does not. Use OpenSSH's sftp-server, or mount the folder with sshfs."
            ) from e
        finally:
            self._remove(key)
        if not is_exclusive:
            raise StoreError(
                f"{self._url} must be on a server whose rename fails if there is a file, to create one only "
                "if there is none, and it replaces it. Use OpenSSH's sftp-server."
            )

    def _put(self, key: str, source: BinaryIO) -> None:
        with self._sftp() as sftp, self._staged(sftp, key, source) as staged:
            sftp.posix_rename(staged, self._path(key))

    def _put_if_absent(self, key: str, content: bytes) -> bool:
        with self._sftp() as sftp, self._staged(sftp, key, io.BytesIO(content)) as staged:
            try:
                sftp.rename(staged, self._path(key))
            except OSError:
                # The protocol has one code for all failures.
                if _mode(sftp, self._path(key)) is None:
                    raise
                return False
            return True

    def _remove(self, key: str) -> None:
        path = self._path(key)
        with self._sftp() as sftp:
            mode = _mode(sftp, path)
            if mode is None or stat.S_ISDIR(mode):
                return
            with suppress(FileNotFoundError):
                sftp.remove(path)
            for folder in _parents(key):
                try:
                    sftp.rmdir(self._path(folder))
                except FileNotFoundError:
                    continue
                except TimeoutError:
                    raise
                except OSError:  # not empty
                    break

    @contextmanager
    def _sftp(self) -> Iterator[Any]:
        connection = self._connections.get(os.getpid())
        if connection is None:
            # A forked child has no use for the login of its parent, and must not end it.
            connection = self._connections.setdefault(os.getpid(), SshConnection(**self._login))
        with connection.channel() as sftp:
            yield sftp

    @contextmanager
    def _staged(self, sftp: Any, key: str, source: BinaryIO) -> Iterator[str]:
        """Yield the path of a temporary file with the content, beside where the key's file will be."""
        path, file = self._open_beside(sftp, key)
        try:
            with file:
                _copy(source, file)
            yield path
        finally:
            with suppress(OSError):
                sftp.remove(path)

    def _open_beside(self, sftp: Any, key: str) -> tuple[str, Any]:
        folder = posixpath.dirname(self._path(key))
        for attempt in range(_ATTEMPTS):
            path = posixpath.join(folder, f".{uuid.uuid4().hex}.tmp")
            try:
                return path, sftp.open(path, "wxb")
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise
                _make_folders(sftp, folder)
        raise AssertionError("unreachable: the last attempt returned or raised")

    @contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except CodistillError:
            raise
        # Of the socket, of paramiko and of the server, with no common base.
        except Exception as e:
            reason = " ".join(str(e).split())[:300] or type(e).__name__
            what = f"{verb} {key!r}" if key else verb
            raise StoreError(
                f"{self._url} could not {what} ({reason}). Check that the server can be reached, that the "
                "login works with ssh, and that the folder is writable and has space left.",
                key=key or None,
            ) from e


@final
class _ViewReader(io.RawIOBase):
    """Reads a memoryview without a second copy of it."""

    def __init__(self, content: memoryview) -> None:
        super().__init__()
        self._rest = content.cast("B")

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any, /) -> int:
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _reader(content: bytes | memoryview) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else io.BufferedReader(_ViewReader(content))


def _copy(source: BinaryIO, file: Any) -> None:
    """Write all pieces without waiting for each answer, and then look at every answer."""
    piece = source.read(_PIECE_BYTES)
    file.set_pipelined(True)
    while following := source.read(_PIECE_BYTES):
        file.write(piece)
        piece = following
    # paramiko drops the answers to pipelined pieces, errors too, unless one that is not pipelined follows.
    file.set_pipelined(False)
    file.write(piece)


@final
class _Answers:
    """What the server has sent for requests that were not waited for, by the request's number."""

    def __init__(self) -> None:
        self.pieces: dict[int, bytes] = {}
        self.under_way = 0

    def _async_response(self, kind: int, message: Any, number: int) -> None:
        self.under_way -= 1
        self.pieces[number] = message.get_string() if kind == _DATA else b""


def _read_ahead(sftp: Any, file: Any, start: int, wanted: int) -> bytes:
    """Return a part of a file, asked for in pieces without waiting for each answer.

    paramiko's own ``readv`` asks and takes answers in two threads; where the answers come faster, it takes
    all to have come, and asks for the rest once more (paramiko 5.1). To be removed when it does not any more.
    """
    int64 = require("paramiko.sftp", "sftp").int64
    answers, asked = _Answers(), []
    for begin in range(start, start + wanted, _PIECE_BYTES):
        size = min(_PIECE_BYTES, start + wanted - begin)
        asked.append(sftp._async_request(answers, _READ, file.handle, int64(begin), size))
        answers.under_way += 1
        while answers.under_way >= _PIECES_AHEAD:
            sftp._read_response()
    while answers.under_way:
        sftp._read_response()
    return b"".join(answers.pieces[number] for number in asked)


def _mode(sftp: Any, path: str) -> int | None:
    try:
        mode: int = sftp.stat(path).st_mode
    except FileNotFoundError:
        return None
    return mode


def _make_folders(sftp: Any, folder: str) -> None:
    if folder in ("", "/"):
        return
    _make_folders(sftp, posixpath.dirname(folder))
    try:
        sftp.mkdir(folder)
    except OSError:
        # There already, or made by another at this moment; or pruned since, and then tried again.
        mode = _mode(sftp, folder)
        if mode is not None and not stat.S_ISDIR(mode):
            raise


def _parents(key: str) -> Iterator[str]:
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key
