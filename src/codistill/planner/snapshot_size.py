"""How large a snapshot and its manifest are."""

import math
from typing import Final

from codistill.planner.job import DTYPES, ITEM_BYTES, Model
from codistill.snapshots.precision import BLOCK_ELEMENTS, STORED
from codistill.snapshots.shards import CHUNK_BYTES

# What the format's documents come to, within a few bytes: tests encode real models and compare.
_HEADER_BYTES_A_TENSOR: Final = 90
_SCALES_HEADER_BYTES_A_TENSOR: Final = 40
_MANIFEST_BYTES: Final = 660
_MANIFEST_BYTES_A_TENSOR: Final = 165
_MANIFEST_BYTES_A_PART: Final = 100
_MANIFEST_BYTES_A_CHUNK: Final = 68


def snapshot_bytes(model: Model, codec: str = "exact", *, shards: int = 1) -> int:
    """Return the size of a snapshot's files, without its documents.

    Args:
        model: What is in it.
        codec: One of `codistill.snapshots.codec.CODECS`.
        shards: Ranks that each write a part of every tensor.

    Example:
        >>> model = Model(parameters=10_000_000, tensors=10)
        >>> [snapshot_bytes(model, codec) for codec in ("exact", "bfloat16", "int8")]
        [40000900, 20000900, 10157552]
    """
    item_bytes = ITEM_BYTES[model.weight_dtype]
    rounded = model.parameters - model.unrounded_elements
    stored = STORED[codec].get(DTYPES[model.weight_dtype])
    header_bytes = _HEADER_BYTES_A_TENSOR
    rounded_bytes: int = rounded * (2 if stored == "BF16" else item_bytes)
    if stored == "I8":
        rounded_bytes = rounded + 4 * math.ceil(rounded / BLOCK_ELEMENTS)
        header_bytes += _SCALES_HEADER_BYTES_A_TENSOR
    return (
        rounded_bytes
        + model.unrounded_elements * item_bytes
        + model.buffer_bytes
        + shards * count_tensors(model) * header_bytes
    )


def count_tensors(model: Model) -> int:
    """Return how many tensors a model has, guessed from its parameters where that is not told.

    A layer of a transformer of width w has 12 w w parameters in 12 tensors, and there are about w / 64 of
    them; other networks differ, and it matters little, as it decides on a few hundred bytes each.
    """
    if model.tensors is not None:
        return model.tensors
    width = math.cbrt(64 * model.parameters / 12)
    return max(2, round(12 * width / 64))


def manifest_bytes(model: Model, codec: str = "exact", *, shards: int = 1) -> int:
    """Return the size of a snapshot's manifest; arguments as of `snapshot_bytes`."""
    parts = (shards - 1) * _MANIFEST_BYTES_A_PART
    chunks = max(shards, snapshot_bytes(model, codec, shards=shards) // CHUNK_BYTES + 1)
    return (
        _MANIFEST_BYTES
        + count_tensors(model) * (_MANIFEST_BYTES_A_TENSOR + parts)
        + chunks * _MANIFEST_BYTES_A_CHUNK
    )
