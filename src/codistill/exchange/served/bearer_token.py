"""The secret by which a prediction server knows its students."""

import hmac
import os
import re
import stat
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, final

from codistill.errors import CodistillWarning

_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/=-]{32,4096}")
_MOST_BYTES: Final = 4096 + 2
_MAKE_ONE: Final = "python -c 'import secrets; print(secrets.token_hex(32))' > token"


@final
@dataclass(frozen=True, slots=True)
class BearerToken:
    """A secret that travels in the header of each request; its ``repr`` does not show it.

    Example:
        >>> token = BearerToken("0123456789abcdef0123456789abcdef")
        >>> token, token.is_in("Bearer 0123456789abcdef0123456789abcdef"), token.is_in("Bearer guessed")
        (BearerToken(), True, False)
    """

    secret: str = field(repr=False)
    """32 to 4096 characters that nobody can guess."""

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a token: the file's text without the end of the last line.

        Warns if other users of this machine can read or change the file.

        **Blocks**: while the file is read.

        Args:
            path: The file.

        Raises:
            ValueError: If it cannot be read, or holds no such text; the message says how to make one.
        """
        try:
            with Path(path).open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                content = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise ValueError(
                f"token_file must be a file that can be read, got {str(path)!r}: {error.strerror}. "
                f"Copy there the server's, or make one: {_MAKE_ONE}."
            ) from error
        secret = content.removesuffix(b"\n").removesuffix(b"\r")
        if _TOKEN.fullmatch(secret) is None:
            raise ValueError(
                f"token_file must hold 32 to 4096 letters, digits and '._~+/=-', got something else in "
                f"{str(path)!r}. Make one: {_MAKE_ONE}."
            )
        if os.name == "posix" and mode & 0o077:
            warnings.warn(
                f"token_file {str(path)!r} can be read or changed by other users of this machine "
                f"(mode {mode:04o}). Take that right from them with chmod 600.",
                CodistillWarning,
                stacklevel=2,
            )
        return cls(secret.decode())

    @property
    def header(self) -> str:
        """The value of the header Authorization."""
        return f"Bearer {self.secret}"

    def is_in(self, header: str) -> bool:
        """Return whether a header holds it, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(self.header.encode(), header.encode(errors="replace"))
