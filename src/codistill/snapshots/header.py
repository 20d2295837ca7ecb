"""The header of a safetensors file: which tensors it holds, and where."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from codistill.snapshots.tensors import DTYPES

# How safetensors orders a file: wide dtypes first, so that everything lies at a multiple of its item size.
_ORDER: Final = (
    *("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
    *("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"),
)
_LENGTH_BYTES: Final = 8
_ALIGNMENT_BYTES: Final = 8
# The limit of safetensors' own readers.
_MAX_HEADER_BYTES: Final = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A tensor in a safetensors file."""

    dtype: str
    """Its dtype, in safetensors' words."""
    shape: tuple[int, ...]
    """Its shape."""
    start: int
    """First byte of its values, from the beginning of the file."""
    end: int
    """Byte after its last value."""

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)} at bytes {self.start} to {self.end}"


def write_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[bytes, dict[str, FileEntry]]:
    """Lay out a file as `safetensors.torch.save` does: by names, dtypes and shapes alone.

    Args:
        tensors: Dtype and shape by name, at least one.

    Returns:
        What the file begins with, and where in it the tensors go, in the order of their bytes.
    """
    offsets = {}
    end = 0
    for name in sorted(tensors, key=lambda name: (_ORDER.index(tensors[name][0]), name)):
        dtype, shape = tensors[name]
        start, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
        offsets[name] = (start, end)
    fields = {
        name: {"dtype": tensors[name][0], "shape": tensors[name][1], "data_offsets": offsets[name]}
        for name in offsets
    }
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    header = len(text).to_bytes(_LENGTH_BYTES, "little") + text
    entries = {
        name: FileEntry(
            dtype=tensors[name][0], shape=tensors[name][1], start=len(header) + start, end=len(header) + end
        )
        for name, (start, end) in offsets.items()
    }
    return header, entries


def read_header(data: memoryview) -> tuple[int, dict[str, FileEntry]]:
    """Return the size of a file's header, and what it says without any of that being checked.

    Raises:
        ValueError: If the file does not begin with one.
    """
    size = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    if size > min(len(data), _MAX_HEADER_BYTES):
        raise ValueError(f"it must begin with a header that lies within the file, got {size} bytes.")
    try:
        header = json.loads(bytes(data[_LENGTH_BYTES:size]))
        header.pop("__metadata__", None)
        return size, {name: _read_entry(entry, size) for name, entry in header.items()}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as e:
        raise ValueError("it must begin with the header of a safetensors file, got something else.") from e


def _read_entry(entry: Any, header_bytes: int) -> FileEntry:
    start, end = entry["data_offsets"]
    return FileEntry(
        dtype=str(entry["dtype"]),
        shape=tuple(entry["shape"]),
        start=header_bytes + start,
        end=header_bytes + end,
    )
