"""Connections that cannot be held without end."""

import asyncio
from typing import Any, final

from typing_extensions import override
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from codistill.server.limits import Limits


@final
class BoundedConnection(H11Protocol):
    """A connection that is closed when it takes too long, or when there are too many.

    uvicorn lets a client take for ever over the head of a request, and over reading an answer.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None
        self._is_idle = True

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            transport.abort()
            return
        self._begin_to_wait()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        if self._is_idle:
            self._is_idle = False
            self._begin_to_wait()
        super().data_received(data)

    @override
    def on_response_complete(self) -> None:
        # Handed to the transport, that is; the client may still have to read it.
        self._is_idle = True
        self._begin_to_wait()
        super().on_response_complete()

    def _begin_to_wait(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        # Not close(), which waits for the client to read what it was sent.
        self._deadline = self.loop.call_later(self._limits.request_timeout_s, self.transport.abort)
