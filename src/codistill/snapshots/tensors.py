"""Which tensors a snapshot holds, and in which bytes of which shard."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch

from codistill.snapshots.document import MAX_INTEGER, Fields, is_text
from codistill.snapshots.keys import shard_name
from codistill.snapshots.precision import STORED, count_blocks
from codistill.snapshots.shards import MAX_SHARDS, Shard

MAX_DIMENSIONS: Final = 32
MAX_NAME_CHARACTERS: Final = 4096
# What follows a quantised tensor's name in the name of its scales, which are a tensor of the file's own.
SCALES_SUFFIX: Final = "::scales"

# What every safetensors from 0.6 on both writes and reads, under its names.
DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_SCALE_BYTES: Final = torch.float32.itemsize
_CONVERSIONS: Final = frozenset(
    pair for stored_by_dtype in STORED.values() for pair in stored_by_dtype.items()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A box of a tensor that lies in one shard; its `TensorEntry` checks that it fits."""

    shard: int
    """Index into the manifest's shards, from 0."""
    offsets: tuple[int, ...]
    """Where the box begins in the tensor, an index a dimension."""
    shape: tuple[int, ...]
    """Size of the box."""
    start: int
    """First byte of its values in the shard's file."""
    end: int
    """Byte after its last value."""
    scales: tuple[int, int] | None = None
    """First byte of its scales in the same file and byte after the last; None if it is not quantised."""

    @property
    def elements(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Every (first byte, byte after the last) that is its own in the shard's file."""
        values = (self.start, self.end)
        return (values,) if self.scales is None else (values, self.scales)

    def to_fields(self) -> dict[str, Any]:
        """Return its JSON object."""
        scales = {} if self.scales is None else {"scales": list(self.scales)}
        return {
            "shard": self.shard,
            "offsets": list(self.offsets),
            "shape": list(self.shape),
            "bytes": [self.start, self.end],
            **scales,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> "Part":
        """Parse its JSON object; ValueError names the field."""
        start, end = _range(fields, "bytes")
        return cls(
            shard=fields.integer("shard"),
            offsets=fields.integers("offsets", limit=MAX_DIMENSIONS),
            shape=fields.integers("shape", limit=MAX_DIMENSIONS),
            start=start,
            end=end,
            scales=_range(fields, "scales") if fields.has("scales") else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """A tensor of the published state."""

    name: str
    """Its name in the state, and in every shard that holds a part of it."""
    dtype: str
    """Its dtype in the published state, in safetensors' words: a key of `DTYPES`."""
    shape: tuple[int, ...]
    """Its whole shape, whatever the number of ranks that published it."""
    parts: tuple[Part, ...]
    """Boxes that together are the tensor; at most one a shard."""
    stored: str | None = None
    """Its dtype in the files where that is another one, see `codistill.snapshots.precision`."""

    def __post_init__(self) -> None:
        check_tensor_name(self.name)
        if self.dtype not in DTYPES:
            raise self._wrong(f"dtype must be one of {', '.join(DTYPES)}, got {ascii(self.dtype)[:40]}")
        if self.stored is not None and (self.dtype, self.stored) not in _CONVERSIONS:
            choices = ", ".join(sorted(stored for dtype, stored in _CONVERSIONS if dtype == self.dtype))
            raise self._wrong(
                f"stored must be one of {choices or 'none'} for {self.dtype}, got {ascii(self.stored)[:40]}"
            )
        if len(self.shape) > MAX_DIMENSIONS:
            raise self._wrong(f"shape must have at most {MAX_DIMENSIONS} dimensions, got {len(self.shape)}")
        # Sizes of 0 count as 1: torch multiplies the others into strides all the same.
        if math.prod(max(size, 1) for size in self.shape) * self._itemsize > MAX_INTEGER:
            raise self._wrong(f"shape must be that of a tensor of below 2**63 bytes, got {list(self.shape)}")
        self._check_parts()

    @property
    def stored_dtype(self) -> str:
        """Its dtype in the files."""
        return self.stored or self.dtype

    @property
    def is_quantised(self) -> bool:
        """Whether its parts have scales."""
        return self.stored == "I8"

    @property
    def decoded_bytes(self) -> int:
        """Its size when it is decoded."""
        return math.prod(self.shape) * self._itemsize

    @property
    def _itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    def _check_parts(self) -> None:
        if not self.parts:
            raise self._wrong("parts must not be empty, got []")
        for part in self.parts:
            self._check_part(part)
        if len({part.shard for part in self.parts}) < len(self.parts):
            raise self._wrong("parts must lie in different shards, got two in one")
        # Without elements a smaller box would pass what follows.
        if len(self.parts) == 1 and self.parts[0].shape != self.shape:
            raise self._wrong(
                f"its only part must have shape {list(self.shape)}, got {list(self.parts[0].shape)}"
            )
        elements = sum(part.elements for part in self.parts)
        if elements != math.prod(self.shape):
            raise self._wrong(f"parts must add up to {math.prod(self.shape)} elements, got {elements}")

    def _check_part(self, part: Part) -> None:
        if not len(part.shape) == len(part.offsets) == len(self.shape):
            raise self._wrong(
                f"parts must have {len(self.shape)} dimensions, "
                f"got {list(part.shape)} at {list(part.offsets)}"
            )
        boxes = zip(part.offsets, part.shape, self.shape, strict=True)
        if any(offset < 0 or size < 0 or offset + size > whole for offset, size, whole in boxes):
            raise self._wrong(
                f"parts must lie within shape {list(self.shape)}, "
                f"got {list(part.shape)} at {list(part.offsets)}"
            )
        size_bytes = part.elements * DTYPES[self.stored_dtype].itemsize
        if part.start < 0 or part.end - part.start != size_bytes:
            raise self._wrong(
                f"bytes must be {size_bytes} for {self.stored_dtype} of shape {list(part.shape)}, "
                f"got {part.start} to {part.end}"
            )
        if (part.scales is not None) != self.is_quantised:
            raise self._wrong(f"scales must be there exactly where stored is I8, got {part.scales}")
        if part.scales is not None:
            start, end = part.scales
            size_bytes = count_blocks(part.elements) * _SCALE_BYTES
            if start < 0 or end - start != size_bytes:
                raise self._wrong(
                    f"scales must be {size_bytes} bytes for {part.elements} elements, got {start} to {end}"
                )

    def _wrong(self, rule_and_value: str) -> ValueError:
        return ValueError(f"tensor {self.name!a}: {rule_and_value}.")

    def to_fields(self) -> dict[str, Any]:
        """Return its JSON object."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "parts": [part.to_fields() for part in self.parts],
            **({} if self.stored is None else {"stored": self.stored}),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> "TensorEntry":
        """Parse its JSON object; ValueError names the field."""
        return cls(
            name=fields.text("name"),
            dtype=fields.text("dtype"),
            shape=fields.integers("shape", limit=MAX_DIMENSIONS),
            parts=tuple(Part.from_fields(part) for part in fields.objects("parts", limit=MAX_SHARDS)),
            stored=fields.text("stored") if fields.has("stored") else None,
        )


def check_tensor_name(name: str) -> None:
    """Refuse names that a safetensors file or a message cannot hold.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is empty, too long, not text, or safetensors' own.
    """
    if not isinstance(name, str):
        raise TypeError(f"tensor names must be strings, got {type(name).__name__}. Rename it.")
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS or not is_text(name) or name == "__metadata__":
        raise ValueError(
            f"tensor names must be 1 to {MAX_NAME_CHARACTERS} characters and not '__metadata__', "
            f"got {ascii(name)[:80]}. Rename it."
        )


def check_layout(tensors: Sequence[TensorEntry], aliases: Mapping[str, str], shards: Sequence[Shard]) -> None:
    """Check that tensors, aliases and shards fit one another.

    Raises:
        ValueError: If names repeat, an alias leads nowhere, parts lie outside their shard or over one
            another, or shards are not named in order.
    """
    names = {tensor.name for tensor in tensors}
    if not tensors:
        raise ValueError("tensors must hold at least one, got none.")
    if len(names) < len(tensors):
        raise ValueError(f"tensors must have different names, got {len(tensors) - len(names)} repeated.")
    if any(tensor.is_quantised for tensor in tensors):
        for name in names:
            check_scales_name(name)
    for alias, stored in aliases.items():
        check_tensor_name(alias)
        if alias in names or stored not in names:
            raise ValueError(
                f"aliases must be other names of stored tensors, got {ascii(alias)[:80]} for "
                f"{ascii(stored)[:80]}."
            )
    for index, shard in enumerate(shards, start=1):
        if shard.name != shard_name(index, len(shards)):
            raise ValueError(
                f"shards[{index - 1}].name must be {shard_name(index, len(shards))!r}, "
                f"got {ascii(shard.name)[:80]}."
            )
    _check_ranges(tensors, shards)


def check_scales_name(name: str) -> None:
    """Refuse names that are those of scales, beside quantised tensors.

    Raises:
        ValueError: If it is such a one.
    """
    if name.endswith(SCALES_SUFFIX):
        raise ValueError(
            f"tensor names must not end in {SCALES_SUFFIX!r} where tensors are quantised, "
            f"got {ascii(name)[:80]}. Rename it, or take another codec."
        )


def _check_ranges(tensors: Sequence[TensorEntry], shards: Sequence[Shard]) -> None:
    """Check that all parts lie within their shards and no two on the same bytes.

    The latter bounds what decoding allocates: however hostile the manifest, every byte of a file is
    decoded once.
    """
    taken: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for tensor in tensors:
        for part in tensor.parts:
            ends = [end for _, end in part.ranges]
            if not 0 <= part.shard < len(shards) or max(ends) > shards[part.shard].size_bytes:
                raise ValueError(f"tensor {tensor.name!a}: parts must lie within the shards' files.")
            taken[part.shard] += [(start, end, tensor.name) for start, end in part.ranges if start < end]
    for ranges in taken.values():
        for (_, end, name), (start, _, other) in pairwise(sorted(ranges)):
            if start < end:
                raise ValueError(
                    f"tensor {other!a}: parts must not lie on bytes of others, got those of {name!a}."
                )


def _range(fields: Fields, field: str) -> tuple[int, int]:
    """Return the two elements of an array that are a first byte and the byte after the last."""
    values = fields.integers(field, limit=2)
    if len(values) != 2:
        raise ValueError(f"{fields.name}.{field} must be start and end, got {len(values)} elements.")
    return values[0], values[1]
