"""What the page of a watch and its numbers are asked for by."""

import importlib.resources
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Final, final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from codistill.exchange.served.url import is_loopback
from codistill.watch.view import View

VIEW_PATH: Final = "/view.json"

_HEADERS: Final = {
    # All that the page needs is in it, and it asks nobody but this server.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@final
class App:
    """Answers a browser: a page, and what it shows as JSON. It only tells; nothing can be changed by it."""

    def __init__(self, view: Callable[[], View], *, interval_s: float, host: str) -> None:
        """Make the routes.

        Args:
            view: Returns what to show.
            interval_s: How often the page asks, in seconds.
            host: Where it listens: at this machine alone, only what is asked of this machine is answered.
        """
        self._view = view
        self._interval_s = interval_s
        self._is_local = is_loopback(host)
        self._page = importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
        self.asgi = Starlette(routes=[Route("/", self._show_page), Route(VIEW_PATH, self._tell)])

    async def _show_page(self, request: Request) -> Response:
        return self._refusal(request) or HTMLResponse(self._page, headers=_HEADERS)

    async def _tell(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        document = {"interval_s": self._interval_s, **asdict(self._view())}
        return JSONResponse(document, headers=_HEADERS)

    def _refusal(self, request: Request) -> Response | None:
        """Refuse a stranger's page that has let its own name lead to this machine."""
        if self._is_local and not _is_this_machine(request.headers.get("host", "")):
            return PlainTextResponse(
                "This page is for this machine only.", HTTPStatus.FORBIDDEN, headers=_HEADERS
            )
        return None


def _is_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)
