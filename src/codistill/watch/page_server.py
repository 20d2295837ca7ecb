"""The page of a watch, served to a browser."""

import errno
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self, final

from codistill.arguments import check_int
from codistill.extras import check_installed, require
from codistill.watch.view import View

_GRACE_S: Final = 1
_JOIN_S: Final = 5.0
_CONNECTIONS: Final = 64


@final
class PageServer:
    """Serves a page that shows a run, on a thread of its own.

    **Ranks**: none: any process.
    **Blocks**: closing, 5 s at most.
    **On failure**: nothing listens any more; what it showed goes on.
    """

    def __init__(self, view: Callable[[], View], *, interval_s: float, host: str, port: int) -> None:
        """Listen; as a context manager it answers.

        Args:
            view: Returns what to show; called on another thread.
            interval_s: How often the page asks for it, in seconds.
            host: A name or an address of this machine. Whoever reaches it sees the page.
            port: 0 takes any that is free.

        Raises:
            ExtraMissingError: If the extra "serve" is not installed.
            TypeError, ValueError: If the port is none.
            OSError: If it cannot listen there.
        """
        for module in ("starlette", "uvicorn"):
            check_installed(module, "serve")
        check_int("port", port, minimum=0, maximum=65535, hint="0 takes any that is free.")
        self._listener = _listen(host, port)
        shown = f"[{host}]" if ":" in host else host
        self._url = f"http://{shown}:{self._listener.getsockname()[1]}/"
        # It needs the extra.
        from codistill.watch.app import App

        uvicorn: Any = require("uvicorn", "serve")
        self._http = uvicorn.Server(
            uvicorn.Config(
                App(view, interval_s=interval_s, host=host).asgi,
                http="h11",
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_CONNECTIONS,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        self._thread = threading.Thread(target=self._run, name="codistill-page", daemon=True)

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        return self._url

    @property
    def is_broken(self) -> bool:
        """Whether it has ended though nobody has closed it."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Answer no more."""
        self._http.should_exit = True
        self._thread.join(_JOIN_S)
        self._listener.close()

    def _run(self) -> None:
        self._http.run(sockets=[self._listener])


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        OSError: If the address is not this machine's, or the port is in use.
    """
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((host, port), family=family)
    except socket.gaierror as error:
        raise OSError(f"host must be a name or an address of this machine, got {host!r}: {error}.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                f"port must be free, got {port}, which another program uses at {host}. "
                "Pass another --port, or --port 0 for any that is free."
            ) from error
        raise OSError(
            f"host and port must be ones to listen at, got {host!r} and {port}: {error}."
        ) from error
