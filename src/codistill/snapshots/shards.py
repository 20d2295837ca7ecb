"""The files of a snapshot as bytes: their sizes and digests, and whether they are what was published."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from codistill.errors import SnapshotIntegrityError
from codistill.snapshots.document import SHA256, Fields

CHUNK_BYTES: Final = 8 * 2**20
MAX_SHARDS: Final = 100_000


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
    def of(cls, name: str, data: bytes | memoryview) -> "Shard":
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


def chunk_digests(data: bytes | memoryview) -> tuple[str, ...]:
    """Return the SHA-256 of every `CHUNK_BYTES` of a file, hexadecimal."""
    view = memoryview(data)
    starts = range(0, len(view), CHUNK_BYTES)
    return tuple(hashlib.sha256(view[start : start + CHUNK_BYTES]).hexdigest() for start in starts)


def content_digest(shards: Sequence[Shard]) -> str:
    """Return one digest of all shards, equal exactly if names, dtypes and values of all tensors are.

    It notices peers whose weights are identical, as far as their codec tells weights apart. Hexadecimal
    SHA-256 over the chunks' digests.
    """
    digest = hashlib.sha256()
    for shard in shards:
        digest.update("".join(shard.chunk_sha256).encode())
    return digest.hexdigest()


def verify_chunk(
    shard: Shard, index: int, data: bytes | memoryview, *, peer: str | None = None, key: str | None = None
) -> None:
    """Check one chunk of a shard's file against its digest.

    Args:
        shard: The shard, of a manifest that is itself verified.
        index: Which chunk, from 0; it begins at byte ``index * CHUNK_BYTES``.
        data: The whole chunk.
        peer: Whose it is, for the message.
        key: Where it was read, for the message.

    Raises:
        SnapshotIntegrityError: If these are not the bytes that were published.
    """
    if hashlib.sha256(data).hexdigest() != shard.chunk_sha256[index]:
        raise SnapshotIntegrityError(
            f"Shard {key or shard.name!r} of peer {peer!r} is not what was published: chunk {index} at byte "
            f"{index * CHUNK_BYTES} has another digest. It was altered or only partly written; the peer's "
            "next snapshot replaces it.",
            peer=peer,
            key=key,
        )


def verify_shard(
    shard: Shard, data: bytes | memoryview, *, peer: str | None = None, key: str | None = None
) -> None:
    """Check a shard's file against its size and all its digests.

    Args:
        shard: The shard, of a manifest that is itself verified.
        data: The whole file.
        peer: Whose it is, for the message.
        key: Where it was read, for the message.

    Raises:
        SnapshotIntegrityError: If these are not the bytes that were published.
    """
    check_size(shard, data, peer=peer, key=key)
    view = memoryview(data)
    for index in range(len(shard.chunk_sha256)):
        start = index * CHUNK_BYTES
        verify_chunk(shard, index, view[start : start + CHUNK_BYTES], peer=peer, key=key)


def check_size(
    shard: Shard, data: bytes | memoryview, *, peer: str | None = None, key: str | None = None
) -> None:
    """Check a shard's file against its size.

    Args:
        shard: The shard, of a manifest that is itself verified.
        data: The whole file.
        peer: Whose it is, for the message.
        key: Where it was read, for the message.

    Raises:
        SnapshotIntegrityError: If it has another size.
    """
    if len(data) != shard.size_bytes:
        raise SnapshotIntegrityError(
            f"Shard {key or shard.name!r} of peer {peer!r} must have {shard.size_bytes} bytes, got "
            f"{len(data)}. It was truncated or is still being copied; the peer's next snapshot replaces it.",
            peer=peer,
            key=key,
        )
