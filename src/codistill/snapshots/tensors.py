"""Which tensors a snapshot holds, and in which bytes of which shard."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from codistill.snapshots.document import MAX_INTEGER, SHA256, Fields, is_text
from codistill.snapshots.keys import shard_name

CHUNK_BYTES: Final = 8 * 2**20
MAX_DIMENSIONS: Final = 32
MAX_NAME_CHARACTERS: Final = 4096
MAX_SHARDS: Final = 100_000

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

    def to_fields(self) -> dict[str, Any]:
        """Return its JSON object."""
        return {
            "shard": self.shard,
            "offsets": list(self.offsets),
            "shape": list(self.shape),
            "bytes": [self.start, self.end],
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> "Part":
        """Parse its JSON object; ValueError names the field."""
        byte_range = fields.integers("bytes", limit=2)
        if len(byte_range) != 2:
            raise ValueError(f"{fields.name}.bytes must be start and end, got {len(byte_range)} elements.")
        return cls(
            shard=fields.integer("shard"),
            offsets=fields.integers("offsets", limit=MAX_DIMENSIONS),
            shape=fields.integers("shape", limit=MAX_DIMENSIONS),
            start=byte_range[0],
            end=byte_range[1],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """A tensor of the published state."""

    name: str
    """Its name in the state, and in every shard that holds a part of it."""
    dtype: str
    """How it is stored, in safetensors' words: a key of `DTYPES`."""
    shape: tuple[int, ...]
    """Its whole shape, whatever the number of ranks that published it."""
    parts: tuple[Part, ...]
    """Boxes that together are the tensor; at most one a shard."""

    def __post_init__(self) -> None:
        check_tensor_name(self.name)
        if self.dtype not in DTYPES:
            raise self._wrong(f"dtype must be one of {', '.join(DTYPES)}, got {ascii(self.dtype)[:40]}")
        if len(self.shape) > MAX_DIMENSIONS:
            raise self._wrong(f"shape must have at most {MAX_DIMENSIONS} dimensions, got {len(self.shape)}")
        # Sizes of 0 count as 1: torch multiplies the others into strides all the same.
        if math.prod(max(size, 1) for size in self.shape) * self._itemsize > MAX_INTEGER:
            raise self._wrong(f"shape must be that of a tensor of below 2**63 bytes, got {list(self.shape)}")
        self._check_parts()

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
        elements = sum(math.prod(part.shape) for part in self.parts)
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
        size_bytes = math.prod(part.shape) * self._itemsize
        if part.start < 0 or part.end - part.start != size_bytes:
            raise self._wrong(
                f"bytes must be {size_bytes} for {self.dtype} of shape {list(part.shape)}, "
                f"got {part.start} to {part.end}"
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
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> "TensorEntry":
        """Parse its JSON object; ValueError names the field."""
        return cls(
            name=fields.text("name"),
            dtype=fields.text("dtype"),
            shape=fields.integers("shape", limit=MAX_DIMENSIONS),
            parts=tuple(Part.from_fields(part) for part in fields.objects("parts", limit=MAX_SHARDS)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A safetensors file of a snapshot."""

    name: str
    """File name, beside the manifest."""
    size_bytes: int
    """Size of the whole file."""
    chunk_sha256: tuple[str, ...]
    """SHA-256 of every 8 MiB of it, the last one shorter; hexadecimal."""

    def __post_init__(self) -> None:
        chunks = -(-self.size_bytes // CHUNK_BYTES)
        if len(self.chunk_sha256) != chunks:
            raise ValueError(
                f"chunk_sha256 of {self.name[:80]!a} must be {chunks} digests for {self.size_bytes} bytes, "
                f"got {len(self.chunk_sha256)}."
            )
        for digest in self.chunk_sha256:
            if SHA256.fullmatch(digest) is None:
                raise ValueError(
                    f"chunk_sha256 of {self.name[:80]!a} must be 64 hexadecimal digits each, "
                    f"got {digest[:80]!a}."
                )

    @classmethod
    def of(cls, name: str, data: bytes) -> "Shard":
        """Describe a file by its content."""
        return cls(name=name, size_bytes=len(data), chunk_sha256=chunk_digests(data))

    def to_fields(self) -> dict[str, Any]:
        """Return its JSON object."""
        return {"name": self.name, "size": self.size_bytes, "chunk_sha256": list(self.chunk_sha256)}

    @classmethod
    def from_fields(cls, fields: Fields) -> "Shard":
        """Parse its JSON object; ValueError names the field."""
        size_bytes = fields.integer("size")
        digests = fields.array("chunk_sha256", limit=-(-size_bytes // CHUNK_BYTES))
        if not all(isinstance(digest, str) for digest in digests):
            raise ValueError(f"{fields.name}.chunk_sha256 must be an array of strings, got other values.")
        return cls(name=fields.text("name"), size_bytes=size_bytes, chunk_sha256=tuple(map(str, digests)))


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
        ValueError: If names repeat, an alias leads nowhere, a part lies outside its shard, or shards are
            not named in order.
    """
    names = {tensor.name for tensor in tensors}
    if not tensors:
        raise ValueError("tensors must hold at least one, got none.")
    if len(names) < len(tensors):
        raise ValueError(f"tensors must have different names, got {len(tensors) - len(names)} repeated.")
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
    for tensor in tensors:
        for part in tensor.parts:
            if not 0 <= part.shard < len(shards) or part.end > shards[part.shard].size_bytes:
                raise ValueError(f"tensor {tensor.name!a}: parts must lie within the shards' files.")


def chunk_digests(data: bytes) -> tuple[str, ...]:
    """Return the SHA-256 of every `CHUNK_BYTES` of a file, hexadecimal."""
    view = memoryview(data)
    starts = range(0, len(view), CHUNK_BYTES)
    return tuple(hashlib.sha256(view[start : start + CHUNK_BYTES]).hexdigest() for start in starts)


def content_digest(shards: Sequence[Shard]) -> str:
    """Return one digest of all shards, equal exactly if names, dtypes and values of all tensors are.

    It notices peers whose weights are identical. Hexadecimal SHA-256 over the chunks' digests.
    """
    digest = hashlib.sha256()
    for shard in shards:
        digest.update("".join(shard.chunk_sha256).encode())
    return digest.hexdigest()
