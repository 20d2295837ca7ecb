"""What one rank has written of a snapshot, and how that of all ranks becomes one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codistill.snapshots.document import Fields, as_string
from codistill.snapshots.shards import Shard
from codistill.snapshots.tensors import Part, TensorEntry

_MOST = 2**20
# One rank's words to another of its own peer, never those of a stranger.
_MAX_BYTES = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPart:
    """The part of a tensor that lies in a shard."""

    name: str
    """The tensor's name."""
    dtype: str
    """Its dtype in the published state, in safetensors' words."""
    shape: tuple[int, ...]
    """Its whole shape."""
    stored: str | None
    """Its dtype in the file where that is another one."""
    part: Part
    """The box, and where it lies."""

    def to_fields(self) -> dict[str, Any]:
        """Return its JSON object."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "stored": self.stored,
            "part": self.part.to_fields(),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> "WrittenPart":
        """Parse its JSON object."""
        return cls(
            name=fields.text("name"),
            dtype=fields.text("dtype"),
            shape=fields.integers("shape", limit=_MOST),
            stored=None if fields.is_null("stored") else fields.text("stored"),
            part=Part.from_fields(fields.fields("part")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenShard:
    """A file of a snapshot, and everything about it but its content."""

    shard: Shard
    """The file."""
    parts: tuple[WrittenPart, ...]
    """What lies in it."""
    aliases: Mapping[str, str]
    """Further names of tied tensors, to the name they are stored under."""

    def to_json(self) -> bytes:
        """Return what ``from_json`` reads, for the rank that writes the manifest."""
        return json.dumps(
            {
                "shard": self.shard.to_fields(),
                "parts": [part.to_fields() for part in self.parts],
                "aliases": dict(self.aliases),
            }
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "WrittenShard":
        """Parse what ``to_json`` returned on another rank of this peer."""
        fields = Fields.parse(data, max_bytes=_MAX_BYTES)
        return cls(
            shard=Shard.from_fields(fields.fields("shard")),
            parts=tuple(map(WrittenPart.from_fields, fields.objects("parts", limit=_MOST))),
            aliases={
                alias: as_string(name, f"aliases[{alias!a}]")
                for alias, name in fields.items("aliases", limit=_MOST)
            },
        )


def merge(written: Sequence[WrittenShard]) -> tuple[tuple[TensorEntry, ...], dict[str, str]]:
    """Return the tensors and aliases of a snapshot.

    Args:
        written: Its shards, in the order of their numbers.

    Raises:
        ValueError: If the parts of a tensor do not add up to the whole.

    Example:
        >>> merge([])
        ((), {})
    """
    parts: dict[str, list[WrittenPart]] = {}
    for shard in written:
        for part in shard.parts:
            parts.setdefault(part.name, []).append(part)
    tensors = tuple(
        TensorEntry(
            name=name,
            dtype=of_tensor[0].dtype,
            shape=of_tensor[0].shape,
            parts=tuple(part.part for part in of_tensor),
            stored=of_tensor[0].stored,
        )
        for name, of_tensor in sorted(parts.items())
    )
    return tensors, {alias: name for shard in written for alias, name in shard.aliases.items()}
