"""The manifest: everything about a snapshot but the values of its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from codistill.snapshots.document import (
    RUN_ID,
    SHA256,
    Fields,
    as_string,
    finite_or_none,
    refusals,
    write_document,
)
from codistill.snapshots.keys import check_peer_name, manifest_key, parse_manifest_key
from codistill.snapshots.metadata import check_metadata
from codistill.snapshots.precision import STORED, check_readable
from codistill.snapshots.shards import CHUNK_BYTES, MAX_SHARDS, Shard, content_digest
from codistill.snapshots.tensors import Part, TensorEntry, check_layout

__all__ = [
    "CHUNK_BYTES",
    "MAX_MANIFEST_BYTES",
    "Manifest",
    "ManifestReference",
    "Part",
    "Shard",
    "TensorEntry",
    "check_metadata",
]

MAX_MANIFEST_BYTES: Final = 64 * 2**20
MAX_TENSORS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestReference:
    """Where a manifest is, and the bytes it must have."""

    key: str
    """Its key, of the form `codistill.snapshots.keys.manifest_key` makes."""
    size_bytes: int
    """Its size, between 1 and `MAX_MANIFEST_BYTES`."""
    sha256: str
    """Its digest, 64 hexadecimal digits."""

    def __post_init__(self) -> None:
        parse_manifest_key(self.key)
        if SHA256.fullmatch(self.sha256) is None:
            raise ValueError(f"sha256 must be 64 hexadecimal digits, got {self.sha256[:80]!a}.")
        if not 1 <= self.size_bytes <= MAX_MANIFEST_BYTES:
            raise ValueError(
                f"size of a manifest must be between 1 and {MAX_MANIFEST_BYTES}, got {self.size_bytes}."
            )

    @property
    def peer(self) -> str:
        """Whose snapshot it is."""
        return parse_manifest_key(self.key)[0]

    @property
    def order(self) -> tuple[int, int]:
        """Incarnation and sequence: which of two snapshots of a peer is newer."""
        return parse_manifest_key(self.key)[1:]

    def to_fields(self) -> dict[str, Any]:
        """Return its JSON object."""
        return {"key": self.key, "size": self.size_bytes, "sha256": self.sha256}

    @classmethod
    def from_fields(cls, fields: Fields) -> "ManifestReference":
        """Parse its JSON object; ValueError names the field."""
        return cls(
            key=fields.text("key"), size_bytes=fields.integer("size"), sha256=fields.text("sha256", SHA256)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a peer published: whose, when, and how its tensors lie in the shards."""

    run_id: str
    """Id of the run, as in ``run.json``."""
    peer: str
    """Who published it."""
    incarnation: int
    """Which life of the peer, from 0."""
    sequence: int
    """Which snapshot of that life, from 0."""
    step: int
    """Optimizer steps the weights have taken."""
    samples: int
    """Samples the peer had consumed, over all its ranks."""
    task_loss: float | None
    """Mean task loss since the publish before; None if unknown. Written as null if it is not finite."""
    interval_steps: int
    """Steps between two publishes of this peer, >= 1."""
    codec: str
    """How the tensors are encoded, see `codistill.snapshots.precision`."""
    finished: bool
    """Whether the peer's training is over, so that this snapshot never gets old."""
    metadata: Mapping[str, Any]
    """What the user put there; JSON values."""
    fingerprint: str
    """Digest of all names and shapes, see `codistill.snapshots.fingerprint`."""
    tensors: tuple[TensorEntry, ...]
    """The stored tensors, at least one."""
    aliases: Mapping[str, str]
    """Further names of tied tensors, to the name they are stored under."""
    shards: tuple[Shard, ...]
    """The files, in the order of their numbers."""
    previous: ManifestReference | None
    """The peer's snapshot before this one, of an earlier life too; None for the first."""

    def __post_init__(self) -> None:
        # Strictly backwards, so that whoever walks along it arrives.
        if self.previous is not None and (
            self.previous.peer != self.peer or self.previous.order >= self.order
        ):
            raise ValueError(
                f"previous must be an earlier snapshot of peer {self.peer!r} than "
                f"{self.incarnation}-{self.sequence}, got {self.previous.key!r}."
            )
        check_layout(self.tensors, self.aliases, self.shards)
        for tensor in self.tensors:
            allowed = STORED.get(self.codec, {}).get(tensor.dtype)
            if tensor.stored not in (None, allowed):
                raise ValueError(
                    f"tensor {tensor.name!a}: stored must be {allowed or 'absent'} with codec "
                    f"{self.codec!a:.80}, got {tensor.stored!r}."
                )

    @property
    def key(self) -> str:
        """Where it is stored."""
        return manifest_key(self.peer, self.incarnation, self.sequence)

    @property
    def order(self) -> tuple[int, int]:
        """Incarnation and sequence: which of two snapshots of a peer is newer."""
        return self.incarnation, self.sequence

    @property
    def total_bytes(self) -> int:
        """Size of all shards together."""
        return sum(shard.size_bytes for shard in self.shards)

    @property
    def decoded_bytes(self) -> int:
        """Size of all tensors once they are decoded, up to 8 times `total_bytes`."""
        return sum(tensor.decoded_bytes for tensor in self.tensors)

    @property
    def content_digest(self) -> str:
        """One digest of all tensors, by which two peers with identical weights are noticed."""
        return content_digest(self.shards)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name, aliases included."""
        stored = {tensor.name: tensor.shape for tensor in self.tensors}
        return stored | {alias: stored[name] for alias, name in self.aliases.items()}

    def to_json(self) -> bytes:
        """Return the document's bytes.

        Raises:
            TypeError: If the metadata cannot be written as JSON.
            ValueError: If it would be larger than readers accept.
        """
        data = write_document(
            {
                "run_id": self.run_id,
                "peer": self.peer,
                "incarnation": self.incarnation,
                "sequence": self.sequence,
                "step": self.step,
                "samples": self.samples,
                "task_loss": finite_or_none(self.task_loss),
                "interval_steps": self.interval_steps,
                "codec": self.codec,
                "finished": self.finished,
                "metadata": check_metadata(self.metadata),
                "fingerprint": self.fingerprint,
                "tensors": [tensor.to_fields() for tensor in self.tensors],
                "aliases": dict(self.aliases),
                "shards": [shard.to_fields() for shard in self.shards],
                "previous": None if self.previous is None else self.previous.to_fields(),
            }
        )
        if len(data) > MAX_MANIFEST_BYTES:
            raise ValueError(
                f"manifest must have at most {MAX_MANIFEST_BYTES} bytes, got {len(data)}. "
                "Put less into the metadata."
            )
        return data

    @classmethod
    def from_json(cls, data: bytes, *, key: str) -> "Manifest":
        """Parse a manifest that somebody else wrote.

        Args:
            data: What was read.
            key: Where it was read; peer, incarnation and sequence in it must agree with the key.

        Raises:
            SnapshotFormatError: If a field is not as the format says, or the format or the codec is newer.
        """
        with refusals("manifest", key):
            fields = Fields.of_document(data, max_bytes=MAX_MANIFEST_BYTES)
            # Before the tensors, which a codec to come may describe in ways unknown here.
            check_readable(fields.text("codec"))
            manifest = cls(
                run_id=fields.text("run_id", RUN_ID),
                peer=check_peer_name(fields.text("peer")),
                incarnation=fields.integer("incarnation"),
                sequence=fields.integer("sequence"),
                step=fields.integer("step"),
                samples=fields.integer("samples"),
                task_loss=fields.number_or_none("task_loss"),
                interval_steps=fields.integer("interval_steps", minimum=1),
                codec=fields.text("codec"),
                finished=fields.boolean("finished"),
                metadata=check_metadata(dict(fields.items("metadata", limit=MAX_TENSORS))),
                fingerprint=fields.text("fingerprint", SHA256),
                tensors=tuple(map(TensorEntry.from_fields, fields.objects("tensors", limit=MAX_TENSORS))),
                aliases={
                    alias: as_string(stored, f"aliases[{alias!a}]")
                    for alias, stored in fields.items("aliases", limit=MAX_TENSORS)
                },
                shards=tuple(map(Shard.from_fields, fields.objects("shards", limit=MAX_SHARDS))),
                previous=None
                if fields.is_null("previous")
                else ManifestReference.from_fields(fields.fields("previous")),
            )
            if manifest.key != key:
                raise ValueError(f"its key must be {manifest.key!r} by its fields, got {key!r}.")
            return manifest
