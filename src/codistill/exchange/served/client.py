"""Requests to a prediction server, each with a bound on time and size."""

import contextlib
import functools
import http
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, final

from codistill.exchange.served.bearer_token import BearerToken
from codistill.exchange.served.url import ServerUrl
from codistill.extras import require

_PIECE_BYTES: Final = 2**20
_MOST_REASON_BYTES: Final = 2**12
_LONGEST_REASON: Final = 1000
MEDIA_TYPE: Final = "application/octet-stream"


class ServerAwayError(Exception):
    """There was no answer in time, or none that can be read; there may be one later."""


class ServerRefusalError(Exception):
    """The server does not answer such a question, and will not later."""


@final
class ServerClient:
    """Keeps one connection to a server.

    **Ranks**: each has its own; one thread at a time.
    **Blocks**: every request up to the timeout, however the server sends.
    **On failure**: the next request makes a new connection.
    """

    def __init__(
        self,
        url: ServerUrl,
        *,
        token: BearerToken | None,
        ca_file: str | Path | None,
        timeout_s: float,
    ) -> None:
        """Make no connection yet.

        Args:
            url: Where the server is.
            token: What it knows students by; None if it asks for none.
            ca_file: Certificates that may have signed the server's; None for those of this machine.
            timeout_s: How long a request may take, in seconds.

        Raises:
            ExtraMissingError: If the extra "serve" is not installed.
            ValueError: If ``ca_file`` cannot be read.
        """
        self._urllib3: Any = require("urllib3", "serve")
        self._url = url
        self._timeout_s = timeout_s
        self._headers = {} if token is None else {"Authorization": token.header}
        if ca_file is not None and not Path(ca_file).is_file():
            raise ValueError(
                f"ca_file must be a file of certificates, got {str(ca_file)!r}. "
                "Pass the server's own certificate if it is signed by itself."
            )
        trusted: dict[str, Any] = {}
        if url.is_encrypted:
            trusted = {
                "cert_reqs": "CERT_REQUIRED",
                "ca_certs": None if ca_file is None else str(ca_file),
            }
        self._pool = self._urllib3.connection_from_url(url.url, maxsize=1, retries=False, **trusted)
        self._connection: Any = None
        self._pool.ConnectionCls = functools.partial(self._make, self._pool.ConnectionCls)

    def get(self, path: str, *, max_bytes: int) -> bytes:
        """Return what is at a path.

        Raises:
            ServerAwayError: If there is no answer.
            ServerRefusalError: If the server does not give it.
        """
        return self._request("GET", path, None, max_bytes)

    def post(self, path: str, body: bytes, *, max_bytes: int) -> bytes:
        """Return the answer to a body.

        Args:
            path: Where to.
            body: What is sent.
            max_bytes: The largest answer to take.

        Raises:
            ServerAwayError: If there is no answer.
            ServerRefusalError: If the server does not answer such a body.
        """
        return self._request("POST", path, body, max_bytes)

    def close(self) -> None:
        """Let the connection go."""
        self._pool.close()

    def _request(self, method: str, path: str, body: bytes | None, max_bytes: int) -> bytes:
        errors = self._urllib3.exceptions
        deadline_s = time.monotonic() + self._timeout_s
        try:
            try:
                return self._try(method, path, body, max_bytes, deadline_s)
            except errors.ProtocolError:
                # The server may have closed a connection that was idle; a question may be asked twice.
                return self._try(method, path, body, max_bytes, deadline_s)
        except errors.HTTPError as error:
            raise ServerAwayError(str(error)) from error

    def _try(self, method: str, path: str, body: bytes | None, max_bytes: int, deadline_s: float) -> bytes:
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise ServerAwayError(f"no answer within {self._timeout_s:g} s")
        with self._hanging_up_in(remaining_s):
            content = self._read(method, path, body, max_bytes, remaining_s)
        if time.monotonic() > deadline_s:
            # What hanging up has cut short may look whole.
            raise ServerAwayError(f"no whole answer within {self._timeout_s:g} s")
        return content

    def _read(self, method: str, path: str, body: bytes | None, max_bytes: int, timeout_s: float) -> bytes:
        headers = self._headers | ({} if body is None else {"Content-Type": MEDIA_TYPE})
        response = self._pool.request(
            method,
            self._url.path + path,
            body=body,
            headers=headers,
            timeout=self._urllib3.Timeout(total=timeout_s),
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        is_whole = False
        try:
            if response.status != http.HTTPStatus.OK:
                raise _refusal(response.status, response.read(_MOST_REASON_BYTES))
            content = bytearray()
            while piece := response.read(_PIECE_BYTES):
                content += piece
                if len(content) > max_bytes:
                    raise ServerAwayError(f"its answer is larger than {max_bytes} bytes")
            is_whole = True
            return bytes(content)
        finally:
            # What was not read to its end must not be taken for the next answer.
            if is_whole:
                response.release_conn()
            else:
                response.close()

    @contextlib.contextmanager
    def _hanging_up_in(self, timeout_s: float) -> Iterator[None]:
        """Bound the block: urllib3's timeout is for each byte that comes, not for all of them."""
        timer = threading.Timer(timeout_s, self._hang_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            # It must not hang up on the next request.
            timer.join()

    def _hang_up(self) -> None:
        """Let whoever reads from the connection find it at its end."""
        connection = None if self._connection is None else self._connection.sock
        if connection is not None:
            with contextlib.suppress(OSError):
                # Not the method of an SSLSocket, which is in use on another thread.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _make(self, make: Callable[..., Any], **options: Any) -> Any:
        self._connection = make(**options)
        return self._connection


def _refusal(status: int, body: bytes) -> Exception:
    """Return the error that a status stands for."""
    try:
        told = json.loads(body)["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        told = "it gives no reason"
    # ascii(): what a stranger wrote must not reach a terminal as control sequences.
    reason = f"HTTP {status}: {ascii(str(told)[:_LONGEST_REASON])[1:-1]}"
    is_for_now = status in (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS)
    is_server_s = status >= http.HTTPStatus.INTERNAL_SERVER_ERROR
    return ServerAwayError(reason) if is_for_now or is_server_s else ServerRefusalError(reason)
