"""Where a prediction server is."""

import ipaddress
from dataclasses import dataclass
from typing import Self, final
from urllib.parse import urlsplit


@final
@dataclass(frozen=True, slots=True)
class ServerUrl:
    """The address of a prediction server: encrypted, unless it is on this machine.

    Raises:
        TypeError, ValueError: If it is no such address.

    Example:
        >>> ServerUrl.parse("http://localhost:8765").url
        'http://localhost:8765'
    """

    url: str
    """It, without a slash at the end."""
    is_encrypted: bool
    """Whether it is spoken to by TLS."""
    path: str
    """What its own paths come after, such as behind a proxy; usually empty."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Return the address that a user wrote."""
        if not isinstance(url, str):
            raise TypeError(f"url must be a string, got {type(url).__name__}. Pass 'http://127.0.0.1:8765'.")
        try:
            parts = urlsplit(url)
            host = parts.hostname
            _ = parts.port
        except ValueError as error:
            raise ValueError(f"url must be like 'https://host:8765', got {error}.") from error
        if parts.username is not None or parts.password is not None:
            # It may hold a secret: it stays out of the message.
            raise ValueError("url must hold no user and no password. Pass token_file.")
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise ValueError(f"url must be like 'https://host:8765', got {url!r}.")
        if parts.scheme == "http" and not is_loopback(host):
            raise ValueError(
                f"url must be https:// for a server on another machine, got {url!r}: what is sent could be "
                "read and changed on the way. Serve with --certificate and --key, or through an SSH tunnel."
            )
        return cls(url.rstrip("/"), parts.scheme == "https", parts.path.rstrip("/"))


def is_loopback(host: str) -> bool:
    """Return whether a host is surely this machine.

    Args:
        host: A name, or an address without brackets.

    Example:
        >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "gpu-7")]
        [True, True, True, False, False]
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
