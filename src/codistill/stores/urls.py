"""The parts of a store's URL, without a word of it in any message: it may hold a password."""

import re
from dataclasses import dataclass

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# What pathlib makes of a URL. A single letter is a drive of Windows.
HALF_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlParts:
    """A URL, cut where its parts meet; nothing is decoded."""

    scheme: str
    """In lower case."""
    credentials: str | None
    """What stands before the ``@``; None if there is no ``@``."""
    host: str
    """The host, with its port, or the bucket."""
    path: str
    """The rest, without slashes at its ends."""


def split_url(url: str) -> UrlParts:
    """Cut a URL into its parts.

    Raises:
        ValueError: If it is no URL, has a query or a fragment, characters that cannot be shown, or
            empty, ``.`` or ``..`` parts in its path.

    Example:
        >>> split_url("s3://bucket/run-7/")
        UrlParts(scheme='s3', credentials=None, host='bucket', path='run-7')
    """
    match = SCHEME.match(url)
    if match is None:
        raise ValueError("store must be a URL such as 's3://bucket/run', got one without '://'.")
    scheme = match[1].lower()
    if not url.isprintable() or any(mark in url for mark in "?#\\ "):
        raise ValueError(
            f"store must be a '{scheme}://' URL without query, fragment, backslashes and blanks, got some. "
            "Leave them out; a password has them percent-encoded."
        )
    authority, _, path = url[match.end() :].partition("/")
    credentials, at, host = authority.rpartition("@")
    path = path.rstrip("/")
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(
            f"store must be a '{scheme}://' URL without empty, '.' or '..' parts in its path, got some. "
            "Write the path as the server knows it."
        )
    return UrlParts(scheme=scheme, credentials=credentials if at else None, host=host, path=path)
