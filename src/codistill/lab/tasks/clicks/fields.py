"""Text tables without quotes, cut into columns of bytes without a loop over rows."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

from codistill.errors import DataMissingError

Values = npt.NDArray[np.bytes_]
Numbers = npt.NDArray[np.float32]

BLOCK_BYTES = 1 << 25
"""How much of a large file is cut at once; its index takes about 4 times as much beside it."""
_NEWLINE = ord("\n")


def find_table(folder: Path, name: str, *, origin: str) -> Path:
    """Return the path of a table, which may be compressed (``.gz``).

    Args:
        folder: The data set's folder.
        name: The file's, without ``.gz``.
        origin: Where the data come from, for the error.

    Raises:
        DataMissingError: If there is neither.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataMissingError(
        f"The data set {folder.name!r} is not there: looked for {folder / name} and {name}.gz there, which "
        f"come from {origin}; pass --data-root, or set CODISTILL_DATA, to the folder that holds "
        f"{folder.name}."
    )


def read_text(path: Path) -> bytes:
    """Return the whole content of a file; see `read_blocks`."""
    return b"".join(read_blocks(path))


def read_blocks(path: Path, *, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield whole lines, about ``block_bytes`` of them at a time, of a file that may be compressed.

    Lines end in a line feed here, also where they do in carriage return and line feed in the file.

    Args:
        path: The file; decompressed if its name ends in ``.gz``.
        block_bytes: How much to read at once, >= 1.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        rest = b""
        while block := file.read(block_bytes):
            whole, newline, after = block.rpartition(b"\n")
            if newline:
                yield (rest + whole + newline).replace(b"\r\n", b"\n")
                rest = after
            else:
                rest += block
        if rest:
            yield rest.replace(b"\r\n", b"\n")


@final
class Fields:
    """The columns of some lines of a table.

    Args:
        text: Whole lines, none of them empty; the last may lack its line break.
        columns: Fields of every line, >= 1.
        separator: One byte between two fields of a line.
        source: Where the text is from, for errors.
        first_line: The number of its first line there, from 1.

    Raises:
        ValueError: If a line has another number of fields.
    """

    def __init__(
        self, text: bytes, *, columns: int, separator: bytes, source: Path, first_line: int = 1
    ) -> None:
        self._source, self._first_line = source, first_line
        self._text = np.frombuffer(text if text.endswith(b"\n") else text + b"\n", dtype=np.uint8)
        ends = np.flatnonzero((self._text == ord(separator)) | (self._text == _NEWLINE))
        is_line_end = self._text[ends] == _NEWLINE
        line_ends = np.flatnonzero(is_line_end)
        counts = np.diff(line_ends, prepend=-1)
        if np.any(counts != columns):
            line = int(np.argmax(counts != columns))
            raise ValueError(
                f"Line {first_line + line} of {source} must have {columns} fields, got {counts[line]}. "
                "Check that the file is complete."
            )
        self._ends = ends.reshape(-1, columns)
        self._starts = np.concatenate([[0], ends[:-1] + 1]).reshape(-1, columns)

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self._ends)

    def column(self, index: int) -> Values:
        """Return the fields of a column, bytes [lines].

        Args:
            index: Of the column, from 0.
        """
        starts, lengths = self._starts[:, index], self._ends[:, index] - self._starts[:, index]
        places = np.arange(max(1, int(lengths.max(initial=0))))
        # Short fields near the end of the text would read beyond it; what is too much is blanked below.
        characters = self._text.take(starts[:, None] + places, mode="clip")
        characters[places >= lengths[:, None]] = 0
        return characters.view(f"S{len(places)}").reshape(-1)

    def numbers(self, index: int, *, missing: bytes) -> Numbers:
        """Return the numbers of a column, NaN where they are missing, float32 [lines].

        Args:
            index: Of the column, from 0.
            missing: What stands where there is none.

        Raises:
            ValueError: If a field is neither a number nor ``missing``.
        """
        values = self.column(index)
        is_missing = values == missing
        try:
            numbers = np.where(is_missing, b"0", values).astype(np.float32)
        except ValueError as e:
            raise ValueError(f"Column {index + 1} of {self._source} must hold numbers: {e}.") from e
        numbers[is_missing] = np.nan
        return numbers

    def choices(self, index: int, *choices: bytes) -> npt.NDArray[np.int64]:
        """Return which of some values each field of a column is, int64 [lines].

        Args:
            index: Of the column, from 0.
            choices: The values that may occur.

        Raises:
            ValueError: If another value occurs.
        """
        values = self.column(index)
        is_choice = values[:, None] == np.array(choices)
        is_any = is_choice.any(axis=1)
        if not is_any.all():
            line = int(np.argmin(is_any))
            allowed = ", ".join(choice.decode() for choice in choices)
            raise ValueError(
                f"Column {index + 1} of line {self._first_line + line} of {self._source} must be one of "
                f"{allowed}, got {values[line].decode(errors='replace')!r}. "
                "Check that the file is the original one."
            )
        which: npt.NDArray[np.int64] = is_choice.argmax(axis=1)
        return which
