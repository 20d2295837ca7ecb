"""Text files, plain or compressed, as data sets bring them."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from codistill.errors import DataMissingError

_LONGEST_LINE = 1 << 16
"""Characters after which a line is cut: crawled text has lines that are no lines."""


def check_files(*paths: Path, source: str) -> None:
    """Check that the files of a data set are there.

    Args:
        paths: Each in the folder of the data set.
        source: Where they come from, as in "looked for it, which comes from ...".

    Raises:
        DataMissingError: If one is not.
    """
    for path in paths:
        if not path.is_file():
            raise DataMissingError(
                f"The data set {path.parent.name!r} is not there: looked for {path}, which comes from "
                f"{source}; pass --data-root, or set CODISTILL_DATA, to the folder that holds the data "
                "sets' folders."
            )


def read_text(path: Path) -> str:
    """Return a whole UTF-8 text, decompressed if its name ends in ``.gz``."""
    with _open(path) as file:
        return file.read()


def read_lines(path: Path) -> Iterator[str]:
    """Return a UTF-8 text line by line, with what ends the lines; joined they give all of it.

    What is no UTF-8 is read as ``U+FFFD``, and lines of more than 65,536 characters come in parts.
    """
    with _open(path) as file:
        yield from iter(lambda: file.readline(_LONGEST_LINE), "")


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="\n")
    return path.open(encoding="utf-8", errors="replace", newline="\n")
