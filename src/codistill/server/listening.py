"""Where a server listens, and what it asks for there."""

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import final

from codistill.arguments import check_int
from codistill.exchange.served.bearer_token import BearerToken
from codistill.exchange.served.url import is_loopback


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """An address; one that others can reach needs TLS and a token.

    Raises:
        TypeError, ValueError: If a field is not as described, or others could reach it unprotected.
    """

    host: str = "127.0.0.1"
    """A name or an address of this machine; "0.0.0.0" or "::" for all it has."""
    port: int = 0
    """0 takes any that is free."""
    token_file: str | Path | None = None
    """Holds what students must know; None asks for nothing."""
    certificate: str | Path | None = None
    """Holds the server's certificate, PEM, with those in between up to one that students trust."""
    key: str | Path | None = None
    """Holds the certificate's private key, PEM, without a password."""

    def __post_init__(self) -> None:
        """Check every field."""
        if not isinstance(self.host, str) or not self.host:
            raise ValueError(f"host must be a name or an address, got {self.host!r}. Try '127.0.0.1'.")
        check_int("port", self.port, minimum=0, maximum=65535, hint="0 takes any that is free.")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key must be given together, got one of them.")
        missing = [
            name
            for name, value in (("certificate and key", self.key), ("token_file", self.token_file))
            if value is None
        ]
        if missing and not is_loopback(self.host):
            raise ValueError(
                f"{' and '.join(missing)} must be given to listen at {self.host!r}, where others can reach "
                "this server, got none. Or listen at 127.0.0.1 and let students come through an SSH tunnel."
            )

    def token(self) -> BearerToken | None:
        """Read the token.

        Raises:
            ValueError: If it cannot be read.
        """
        return None if self.token_file is None else BearerToken.from_file(self.token_file)

    def check_certificate(self) -> None:
        """Refuse a certificate that cannot be used.

        Raises:
            ValueError: If it cannot be read, or the key is not its own or has a password.
        """
        if self.certificate is None:
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # A password would be asked for at the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
        except OSError as error:
            raise ValueError(
                f"certificate and key must be PEM files that belong together, got {str(self.certificate)!r} "
                f"and {str(self.key)!r}: {error}."
            ) from error

    def open(self) -> socket.socket:
        """Return a socket that listens.

        Raises:
            OSError: If the address is not this machine's, or the port is in use.
        """
        family, *_ = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server((self.host, self.port), family=family)
        # Connections inherit it. asyncio (_set_nodelay) sets it only for sockets made with a protocol number,
        # and without it each answer waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener

    def url_of(self, listener: socket.socket) -> str:
        """Return where students on this machine find a socket that listens.

        Args:
            listener: What ``open`` returned.
        """
        scheme = "http" if self.certificate is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{listener.getsockname()[1]}"
