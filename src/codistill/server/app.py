"""What a server says over HTTP; docs/prediction-server.md describes it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import asdict
from http import HTTPStatus
from typing import Final, TypeVar, final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from codistill.exchange.served.answer import Answer
from codistill.exchange.served.bearer_token import BearerToken
from codistill.exchange.served.client import MEDIA_TYPE
from codistill.exchange.served.exchange import PEERS_PATH, PREDICTIONS_PATH
from codistill.exchange.served.question import Question
from codistill.server.desk import Desk
from codistill.server.follower import Follower
from codistill.server.limits import Limits
from codistill.server.refusal import Refusal

Result = TypeVar("Result")

HEALTH_PATH: Final = "/health"

# A question is given up before its connection is, so that its student is told.
_SHARE_OF_TIMEOUT: Final = 0.8
_LONGEST_REASON: Final = 1000


@final
class App:
    """Lets students ask: who may, how much at once, and what the answers look like.

    All of it runs in one event loop; what takes long is left to other threads.
    """

    def __init__(
        self,
        desk: Desk,
        follower: Follower,
        *,
        limits: Limits,
        token: BearerToken | None,
        executor: Executor,
    ) -> None:
        """Make the routes.

        Args:
            desk: Answers questions.
            follower: Knows what is wrong with peers that are not served.
            limits: What is refused.
            token: What students must know; None lets everybody ask.
            executor: Parses questions and writes answers.
        """
        self._desk = desk
        self._follower = follower
        self._limits = limits
        self._token = token
        self._executor = executor
        self._pending = 0
        self._pending_bytes = 0
        self.asgi = Starlette(
            routes=[
                Route(HEALTH_PATH, self._health, methods=["GET"]),
                Route(PEERS_PATH, self._peers, methods=["GET"]),
                Route(PREDICTIONS_PATH, self._predict, methods=["POST"]),
            ],
            exception_handlers={HTTPException: _say_wrong_route},
        )

    async def _health(self, _: Request) -> Response:
        if self._desk.is_broken:
            return JSONResponse({"status": "broken"}, HTTPStatus.SERVICE_UNAVAILABLE)
        if not self._desk.versions:
            return JSONResponse({"status": "waiting"}, HTTPStatus.SERVICE_UNAVAILABLE)
        return JSONResponse({"status": "ready"})

    async def _peers(self, request: Request) -> Response:
        try:
            self._check_token(request)
        except Refusal as refusal:
            return _say(refusal)
        return JSONResponse(
            {
                "peers": [asdict(version) for version in self._desk.versions],
                "problems": dict(sorted(self._follower.problems.items())),
            }
        )

    async def _predict(self, request: Request) -> Response:
        try:
            self._check_token(request)
            size_bytes = self._announced_bytes(request)
            self._make_room(size_bytes)
        except Refusal as refusal:
            return _say(refusal)
        try:
            async with asyncio.timeout(_SHARE_OF_TIMEOUT * self._limits.request_timeout_s):
                content = await _read_body(request, size_bytes)
                question = await self._elsewhere(self._parse, content)
                answer = await _unless_gone(request, self._desk.ask(question))
                body = await self._elsewhere(answer.to_bytes)
        except Refusal as refusal:
            return _say(refusal)
        except TimeoutError:
            return _say(Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "there was no answer in time."))
        except ClientDisconnect:
            # Nobody reads it.
            return Response(status_code=HTTPStatus.BAD_REQUEST)
        finally:
            self._pending -= 1
            self._pending_bytes -= size_bytes
        return Response(body, media_type=MEDIA_TYPE)

    def _check_token(self, request: Request) -> None:
        if self._token is not None and not self._token.is_in(request.headers.get("authorization", "")):
            raise Refusal(HTTPStatus.UNAUTHORIZED, "the token is missing or wrong. Pass token_file.")

    def _announced_bytes(self, request: Request) -> int:
        """Return how large a question will be, before any of it is read."""
        # A page in a browser may send other types to this machine without asking.
        if request.headers.get("content-type") != MEDIA_TYPE:
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type must be {MEDIA_TYPE}.")
        announced = request.headers.get("content-length", "")
        if not announced.isascii() or not announced.isdecimal():
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "Content-Length must be given.")
        if len(announced) > 18 or int(announced) > self._limits.max_body_bytes:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"a question must have at most {self._limits.max_body_bytes} bytes. Ask in smaller batches, "
                "or serve with --max-body-bytes.",
            )
        return int(announced)

    def _make_room(self, size_bytes: int) -> None:
        is_full = self._pending >= self._limits.max_pending
        if is_full or self._pending_bytes + size_bytes > self._limits.max_pending_bytes:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many questions wait.")
        self._pending += 1
        self._pending_bytes += size_bytes

    def _parse(self, content: bytes) -> Question:
        try:
            question = Question.from_bytes(content)
        except (TypeError, ValueError) as error:
            reason = f"the question cannot be read: {error}"
            raise Refusal(HTTPStatus.BAD_REQUEST, reason[:_LONGEST_REASON]) from error
        if question.rows > self._limits.max_batch:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"a question must have at most {self._limits.max_batch} samples, got {question.rows}. Ask in "
                "smaller batches, or serve with --max-batch.",
            )
        if question.extent > self._limits.max_body_bytes:
            # Nothing needs to be sent for it, and a sum over what is empty takes memory for the rest.
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"an empty tensor must have at most {self._limits.max_body_bytes} elements were its empty "
                f"dimensions of length 1, got {question.extent}.",
            )
        if question.whole_numbers > self._limits.max_integers:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"a question must have at most {self._limits.max_integers} whole numbers, got "
                f"{question.whole_numbers}. Ask in smaller batches, or serve with --max-integers.",
            )
        return question

    async def _elsewhere(self, function: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)


async def _read_body(request: Request, size_bytes: int) -> bytes:
    """Return a body of the size that was announced."""
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > size_bytes:
            raise Refusal(
                HTTPStatus.BAD_REQUEST, f"the question is larger than the {size_bytes} bytes announced."
            )
    if len(content) < size_bytes:
        raise Refusal(
            HTTPStatus.BAD_REQUEST, f"the question is smaller than the {size_bytes} bytes announced."
        )
    return bytes(content)


async def _unless_gone(request: Request, answer: "Future[Answer]") -> Answer:
    """Wait for an answer, and cancel the question if its student closes the connection meanwhile."""
    waiting = asyncio.wrap_future(answer)
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        raise ClientDisconnect
    finally:
        for one in (waiting, leaving):
            one.cancel()


def _say(refusal: Refusal) -> Response:
    headers = {}
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    return JSONResponse({"error": refusal.reason}, refusal.status, headers=headers)


def _say_wrong_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
