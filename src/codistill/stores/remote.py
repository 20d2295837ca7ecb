"""A store in a bucket, reached through fsspec."""

import heapq
import logging
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, final

from fsspec import AbstractFileSystem, asyn
from fsspec.implementations.memory import MemoryFileSystem
from typing_extensions import override

from codistill.errors import CodistillError, KeyMissingError, StoreError
from codistill.extras import require
from codistill.stores.base import Store
from codistill.stores.urls import split_url

CONNECT_TIMEOUT_S: Final = 5
"""How long to wait for a connection."""
READ_TIMEOUT_S: Final = 30
"""How long a server may be silent in the middle of an answer."""
ATTEMPTS: Final = 3
"""How often S3 is asked before its error counts; gcsfs decides for itself, within CALL_TIMEOUT_S."""
OPEN_TIMEOUT_S: Final = 20
"""How long each request of opening a store may take in all."""
CALL_TIMEOUT_S: Final = 120
"""How long each request of a verb may take in all, besides the time for its bytes."""
SLOWEST_BYTES_PER_S: Final = 64 * 1024
"""The slowest link that is still waited for; what takes longer has failed."""
UPLOADS_AT_ONCE: Final = 4
"""How many pieces of one value are on their way to S3 at a time, of 50 MiB each."""

_CREATE_ATTEMPTS = 5
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ONE_REQUEST_BYTES = 50 * 2**20
# All filesystems of fsspec in memory are views of one dictionary.
_memory_lock = threading.Lock()
# Else gcsfs prints to stderr, where nobody has set up logging, the traceback of what we raise anyway.
_no_output = logging.NullHandler()


def _open_s3() -> AbstractFileSystem:
    filesystem = require("s3fs", "s3").S3FileSystem(
        skip_instance_cache=True,
        use_listings_cache=False,
        max_concurrency=UPLOADS_AT_ONCE,
        config_kwargs={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
        },
    )
    # s3fs repeats what botocore already repeats: the attempts would multiply.
    filesystem.retries = 1
    return filesystem


def _open_gcs() -> AbstractFileSystem:
    # Not gcsfs.GCSFileSystem, which asks for the kind of the bucket over gRPC first.
    core, aiohttp = require("gcsfs.core", "gcs"), require("aiohttp", "gcs")
    logging.getLogger("gcsfs").addHandler(_no_output)
    return core.GCSFileSystem(
        skip_instance_cache=True,
        use_listings_cache=False,
        requests_timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S),
    )


def _open_memory() -> AbstractFileSystem:
    return MemoryFileSystem(skip_instance_cache=True)


# Only backends whose `pipe_file(mode="create")` is one conditional request (or runs under our lock): for
# others fsspec looks first and writes then, which lets two callers win.
_OPENERS: Final[Mapping[str, Callable[[], AbstractFileSystem]]] = MappingProxyType(
    {"s3": _open_s3, "gs": _open_gcs, "gcs": _open_gcs, "memory": _open_memory}
)
REMOTE_SCHEMES: Final = tuple(_OPENERS)


@final
class RemoteStore(Store):
    """Keeps each value in an object of a bucket: ``s3://``, ``gs://``, or fsspec's ``memory://``.

    S3 needs the extra ``s3``, and leave to get, put, delete and list below the URL's path. Other servers
    that speak S3 are named by ``AWS_ENDPOINT_URL``; they have to know conditional writes
    (``If-None-Match``), which is tried when the store is opened. GCS needs the extra ``gcs`` and a bucket
    without hierarchical namespace. Nothing that was read or listed is cached.

    An object appears when all of it is there. A create whose answer was lost on the way is asked again
    and then finds its own value: it returns False, so that of many callers at most one succeeds.

    **Ranks**: any process with credentials; a forked child opens a connection of its own.
    **Blocks**: opening, at most `OPEN_TIMEOUT_S` a request, and earlier, for S3, if `ATTEMPTS` times nobody
    answers within `CONNECT_TIMEOUT_S`; a verb, at most `CALL_TIMEOUT_S` and the time that its bytes take at
    `SLOWEST_BYTES_PER_S`.
    **On failure**: the former value stays. Pieces of a large value may be left in an unfinished upload,
    which is never listed; a lifecycle rule of the bucket removes such.
    """

    def __init__(self, url: str, *, is_read_only: bool = False) -> None:
        """Connect, and write, create twice and delete a small hidden object, to see that it can be done.

        Args:
            url: Scheme, bucket and folder, without credentials.
            is_read_only: Only list the folder instead; an empty one is no error.

        Raises:
            ValueError: If the URL is malformed or of a kind that cannot create atomically.
            ExtraMissingError: If the package for this scheme is not installed.
            StoreError: If the bucket is not there, refuses, or cannot be reached; or if the server
                ignores the condition of a create.
        """
        parts = split_url(url)
        if parts.scheme not in _OPENERS:
            raise ValueError(
                f"url must begin with one of {', '.join(f'{name}://' for name in _OPENERS)}, got "
                f"'{parts.scheme}://'. Use codistill.stores.open_store for the other kinds."
            )
        if parts.credentials is not None:
            raise ValueError(
                f"store must be a '{parts.scheme}://' URL without credentials, got some. Leave them to the "
                "environment or the configuration files of the backend."
            )
        if _BUCKET.fullmatch(parts.host) is None:
            raise ValueError(
                f"store must be '{parts.scheme}://', the name of a bucket, and a path, got another name: "
                "letters, digits, '.', '_' and '-' only."
            )
        self._open = _OPENERS[parts.scheme]
        self._filesystems: dict[int, AbstractFileSystem] = {}
        self._root = f"{parts.host}/{parts.path}".rstrip("/")
        self._url = f"{parts.scheme}://{self._root}"
        self._timeout_s = OPEN_TIMEOUT_S
        if is_read_only:
            self._list_names("", limit=1)
        else:
            with self._errors("be written to", ""):
                self._probe()
        self._timeout_s = CALL_TIMEOUT_S

    @override
    def describe(self) -> str:
        return self._url

    @override
    def _read(self, key: str, *, max_bytes: int, start: int) -> bytes:
        with self._errors("read", key):
            try:
                content = self._call(
                    "cat_file", key, start=start, end=start + max_bytes, size_bytes=max_bytes
                )
            except Exception as e:
                if _is_beyond_the_end(e):
                    return b""
                raise
        assert isinstance(content, bytes)
        return content

    @override
    def _write(self, key: str, content: bytes | memoryview | Path) -> None:
        if isinstance(content, Path):
            # Opened here, so that a file that is not there is the caller's error.
            with content.open("rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if self._filesystem().async_impl:
                    with self._errors("write", key):
                        self._call("put_file", key, str(content), is_upload=True, size_bytes=size_bytes)
                    return
                content = file.read()
        with self._errors("write", key):
            self._call("pipe_file", key, self._uploadable(content), size_bytes=len(content))

    @override
    def _create(self, key: str, content: bytes) -> bool:
        with self._errors("create", key):
            return self._put_if_absent(key, content)

    @override
    def _delete(self, key: str) -> None:
        with self._errors("delete", key), _suppress_missing_key():
            self._call("rm_file", key)

    @override
    def _list_names(self, prefix: str, *, limit: int) -> list[str]:
        paths: list[str] = []
        with self._errors("list", prefix), _suppress_missing_key():
            paths = self._call("ls", prefix, detail=False)
        own = self._path(prefix)
        # A value is listed as itself, and so is the marker that some tools make for a folder.
        below = {path.strip("/").rpartition("/")[2] for path in paths if path.strip("/") != own}
        return heapq.nsmallest(limit, (name for name in below if not name.startswith(".")))

    def _uploadable(self, content: bytes | memoryview) -> "bytes | memoryview | _Sliced":
        """Return the content in a form that the backend takes, without a copy of a large one."""
        if isinstance(content, bytes):
            return content
        # What goes out in one request has to be bytes; s3fs begins to cut at twice this size, gcsfs at once.
        if len(content) < 2 * _ONE_REQUEST_BYTES:
            return bytes(content)
        return _Sliced(content) if self._url.startswith("s3:") else content

    def _probe(self) -> None:
        key = f".{uuid.uuid4().hex}.tmp"
        self._put_if_absent(key, b"")
        is_exclusive = not self._put_if_absent(key, b"")
        self._call("rm_file", key)
        if not is_exclusive:
            raise StoreError(
                f"{self._url} must know conditional writes (If-None-Match), to create an object only if "
                "there is none, and its server ignores them. Use a newer server, or another store."
            )

    def _put_if_absent(self, key: str, content: bytes) -> bool:
        for attempt in range(_CREATE_ATTEMPTS):
            try:
                self._call("pipe_file", key, content, mode="create", size_bytes=len(content))
            except FileExistsError:
                return False
            except OSError as e:
                # Not every server says which condition failed; there is only one.
                if _s3_code(e) in ("PreconditionFailed", "412"):
                    return False
                # S3 answers so while another create of the key is on its way, and asks to try again.
                is_conflict = _s3_code(e) in ("ConditionalRequestConflict", "409")
                if not is_conflict or attempt == _CREATE_ATTEMPTS - 1:
                    raise
            else:
                return True
        raise AssertionError("unreachable: the last attempt returned or raised")

    def _filesystem(self) -> AbstractFileSystem:
        # A forked child has no use for the loop of its parent, and must not close the parent's sockets.
        filesystem = self._filesystems.get(os.getpid())
        if filesystem is None:
            filesystem = self._filesystems.setdefault(os.getpid(), self._open())
        return filesystem

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _call(
        self,
        verb: str,
        key: str,
        *arguments: Any,
        size_bytes: int = 0,
        is_upload: bool = False,
        **options: Any,
    ) -> Any:
        filesystem = self._filesystem()
        path = self._path(key)
        arguments = (*arguments, path) if is_upload else (path, *arguments)
        if not filesystem.async_impl:
            with _memory_lock:
                return getattr(filesystem, verb)(*arguments, **options)
        timeout_s = self._timeout_s + size_bytes / SLOWEST_BYTES_PER_S
        return asyn.sync(
            filesystem.loop, getattr(filesystem, f"_{verb}"), *arguments, timeout=timeout_s, **options
        )

    @contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except CodistillError:
            raise
        # Backends raise errors of their own, of botocore, aiohttp, google.auth ..., with no common base.
        except Exception as e:
            is_missing = isinstance(e, FileNotFoundError)
            if is_missing and verb == "read" and not _is_bucket_missing(e):
                raise KeyMissingError(f"Nothing is stored under {key!r} in {self._url}.", key=key) from e
            what = f"{verb} {key!r}" if key else verb
            step = (
                "Make the bucket, or check its name"
                if is_missing
                else "Check that there are credentials that allow it, and that the server can be reached"
            )
            raise StoreError(f"{self._url} could not {what} ({_reason(e)}). {step}.", key=key or None) from e


@final
class _Sliced:
    """A memoryview whose slices are bytes, for s3fs: it uploads slice by slice, and nothing but bytes."""

    def __init__(self, content: memoryview) -> None:
        self._content = content

    def __len__(self) -> int:
        return len(self._content)

    def __getitem__(self, part: slice) -> bytes:
        return bytes(self._content[part])


def _s3_code(error: BaseException) -> str | None:
    response = getattr(error.__cause__, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def _is_bucket_missing(error: BaseException) -> bool:
    return _s3_code(error) == "NoSuchBucket"


def _is_beyond_the_end(error: BaseException) -> bool:
    return _s3_code(error) in ("InvalidRange", "416") or str(getattr(error, "code", "")) == "416"


@contextmanager
def _suppress_missing_key() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as e:
        if _is_bucket_missing(e):
            raise


def _reason(error: BaseException) -> str:
    if isinstance(error, asyn.FSTimeoutError):
        return "it took too long"
    return " ".join(str(error).split())[:300] or type(error).__name__
