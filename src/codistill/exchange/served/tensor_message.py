"""Tensors with a JSON document, as one safetensors file that travels."""

from collections.abc import Mapping
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from codistill.snapshots.document import Fields, write_document

_DOCUMENT: Final = "codistill"
_LENGTH_BYTES: Final = 8
# Room for the predictions of 64 peers, each some hundred characters.
MAX_HEADER_BYTES: Final = 2**18


def write_message(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Return the file.

    Args:
        document: Plain values; they become a string in the file's ``__metadata__``.
        tensors: Contiguous, on the CPU, by name; they may share memory.
    """
    return save(_apart(tensors), {_DOCUMENT: write_document(document).decode()})


def read_message(content: bytes, *, most_tensors: int) -> tuple[Fields, dict[str, Tensor]]:
    """Return document and tensors of a file that a stranger may have written.

    It takes the memory of the file once more, and little else: the header is bounded.

    Args:
        content: The file.
        most_tensors: Refuse more than these.

    Raises:
        ValueError: If it is not such a file.
    """
    size = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if len(content) < _LENGTH_BYTES or size > min(MAX_HEADER_BYTES, len(content) - _LENGTH_BYTES):
        raise ValueError(
            f"it must begin with the header of a safetensors file of at most {MAX_HEADER_BYTES} bytes."
        )
    try:
        header = Fields.parse(content[_LENGTH_BYTES : _LENGTH_BYTES + size], max_bytes=size)
        text = header.fields("__metadata__").text(_DOCUMENT).encode()
        document = Fields.of_document(text, max_bytes=MAX_HEADER_BYTES)
    except RecursionError as error:
        raise ValueError("its header must not be nested so deeply.") from error
    try:
        tensors = load(content)
    except (SafetensorError, RuntimeError, LookupError, TypeError, AssertionError, OverflowError) as error:
        raise ValueError(f"it must be a safetensors file, got one that cannot be read: {error}") from error
    if len(tensors) > most_tensors:
        raise ValueError(f"it must hold at most {most_tensors} tensors, got {len(tensors)}.")
    return document, tensors


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of which no two share memory, which safetensors refuses."""
    taken: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in taken else tensor
        taken.add(place)
    return apart
