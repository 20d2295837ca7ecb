"""How much of a server strangers may take."""

from dataclasses import dataclass, fields
from typing import final

from codistill.arguments import check_int, check_seconds


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server refuses, checked before a model sees anything of a question.

    Raises:
        TypeError, ValueError: If a field is not as described.
    """

    max_batch: int = 1024
    """The greatest first dimension of a question's tensors, and of several questions merged: samples."""
    max_integers: int = 2**16
    """The most whole numbers in a question, and in several merged, such as tokens: each may become a vector
    of logits."""
    max_body_bytes: int = 2**26
    """The largest question."""
    max_pending_bytes: int = 2**28
    """All questions that are being read, wait or are answered, together."""
    max_pending: int = 128
    """How many these may be."""
    max_connections: int = 256
    """Connections that are open at once; further ones are closed at once."""
    request_timeout_s: float = 60.0
    """How long a connection may take from its first byte, or from the end of the answer before, until it
    has the next answer; it is closed then. A question is given up a little earlier."""

    def __post_init__(self) -> None:
        """Check every field."""
        for field in fields(self):
            if field.type is int:
                check_int(field.name, getattr(self, field.name), minimum=1, hint="It is a limit.")
        check_seconds("request_timeout_s", self.request_timeout_s, hint="60.0 is the default.")
        if self.max_pending_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_pending_bytes must be >= max_body_bytes, {self.max_body_bytes}, "
                f"got {self.max_pending_bytes}. Else the largest question never fits."
            )
