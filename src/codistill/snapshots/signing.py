"""The key that all peers of a run share, by which they know one another's snapshots."""

import hashlib
import hmac
import os
import stat
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from codistill.errors import CodistillWarning

MIN_KEY_BYTES: Final = 32
MAX_KEY_BYTES: Final = 4096
_LINE_END_BYTES: Final = 2
_MAKE_ONE: Final = "python -c 'import secrets; print(secrets.token_hex(32))' > key"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A secret of which only codes are ever shown: neither its ``repr`` nor an error holds it.

    Whoever has it can publish as any peer of the run; docs/threat-model.md says what that means.

    Example:
        >>> key = SigningKey(secret=bytes(range(32)))
        >>> key
        SigningKey()
        >>> key.verify(b"body", key.mac(b"body"))
        True
    """

    secret: bytes = field(repr=False)
    """32 to 4096 bytes that nobody can guess."""

    def __post_init__(self) -> None:
        if not isinstance(self.secret, bytes):
            raise TypeError(f"secret must be bytes, got {type(self.secret).__name__}.")
        if not MIN_KEY_BYTES <= len(self.secret) <= MAX_KEY_BYTES:
            raise ValueError(
                f"secret must be {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes, got {len(self.secret)}. "
                f"Make one: {_MAKE_ONE}."
            )

    @classmethod
    def from_file(cls, path: str | Path) -> "SigningKey":
        """Read a key: the file's bytes without the end of the last line.

        Warns if other users of this machine can read or change the file.

        **Ranks**: each rank that publishes or fetches reads it for itself.
        **Blocks**: while the file is read.

        Args:
            path: The file, the same at every peer.

        Raises:
            ValueError: If it cannot be read, or is too short or too long; the message says how to make one.
        """
        try:
            with Path(path).open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                content = file.read(MAX_KEY_BYTES + _LINE_END_BYTES + 1)
        except OSError as e:
            raise ValueError(
                f"signing_key_file must be a file that can be read, got {str(path)!r}: {e.strerror}. "
                f"Copy there the key of the other peers, or make one: {_MAKE_ONE}."
            ) from e
        secret = content.removesuffix(b"\n").removesuffix(b"\r")
        if not MIN_KEY_BYTES <= len(secret) <= MAX_KEY_BYTES:
            size = len(secret) if len(secret) <= MAX_KEY_BYTES else "more"
            raise ValueError(
                f"signing_key_file must hold {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes, got {size} in "
                f"{str(path)!r}. Make one: {_MAKE_ONE}."
            )
        if os.name == "posix" and mode & 0o077:
            warnings.warn(
                f"signing_key_file {str(path)!r} can be read or changed by other users of this machine "
                f"(mode {mode:04o}). Take that right from them with chmod 600.",
                CodistillWarning,
                stacklevel=2,
            )
        return cls(secret=secret)

    def mac(self, body: bytes) -> str:
        """Return the HMAC-SHA256 of a document's body, 64 hexadecimal digits."""
        return hmac.digest(self.secret, body, hashlib.sha256).hex()

    def verify(self, body: bytes, mac: str) -> bool:
        """Return whether `mac` is that of `body`, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(self.mac(body).encode(), mac.encode())
