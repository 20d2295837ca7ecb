"""Why a question is not answered."""

from http import HTTPStatus
from typing import final


@final
class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault of the server
    """A question that is answered with a status and a reason.

    Attributes:
        status: The HTTP status.
        reason: What the student is told.
    """

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
