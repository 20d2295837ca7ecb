"""The pointer: which of a peer's snapshots is the newest."""

import json
from dataclasses import dataclass
from typing import Final

from codistill.snapshots.document import RUN_ID, SHA256, Fields, refusals, write_document
from codistill.snapshots.keys import check_peer_name, manifest_key, pointer_key
from codistill.snapshots.manifest import ManifestReference

MAX_POINTER_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """The newest snapshot of a peer, by its manifest's key, size and digest."""

    run_id: str
    """Id of the run, as in ``run.json``."""
    peer: str
    """Whose snapshot it is."""
    incarnation: int
    """Which life of the peer."""
    sequence: int
    """Which snapshot of that life."""
    manifest: ManifestReference
    """Its manifest."""

    def __post_init__(self) -> None:
        key = manifest_key(self.peer, self.incarnation, self.sequence)
        if self.manifest.key != key:
            raise ValueError(f"manifest.key must be {key!r} by the other fields, got {self.manifest.key!r}.")

    @property
    def order(self) -> tuple[int, int]:
        """Incarnation and sequence: which of two snapshots of a peer is newer."""
        return self.incarnation, self.sequence

    def to_json(self) -> bytes:
        """Return the document's bytes, unsigned."""
        body = write_document(
            {
                "run_id": self.run_id,
                "peer": self.peer,
                "incarnation": self.incarnation,
                "sequence": self.sequence,
                "manifest": self.manifest.to_fields(),
            }
        )
        return json.dumps({"body": body.decode(), "mac": None}).encode()

    @classmethod
    def from_json(cls, data: bytes, *, key: str) -> "Pointer":
        """Parse a pointer that somebody else wrote.

        A signature (``mac``) is not checked: this version reads signed pointers as if they were unsigned.

        Args:
            data: What was read.
            key: Where it was read; the peer in it must agree with the key.

        Raises:
            SnapshotFormatError: If a field is not as the format says, or the format is newer.
        """
        with refusals("pointer", key):
            envelope = Fields.parse(data, max_bytes=MAX_POINTER_BYTES)
            if not envelope.is_null("mac"):
                envelope.text("mac", SHA256)
            fields = Fields.of_document(envelope.text("body").encode(), max_bytes=MAX_POINTER_BYTES)
            pointer = cls(
                run_id=fields.text("run_id", RUN_ID),
                peer=check_peer_name(fields.text("peer")),
                incarnation=fields.integer("incarnation"),
                sequence=fields.integer("sequence"),
                manifest=ManifestReference.from_fields(fields.fields("manifest")),
            )
            if pointer_key(pointer.peer) != key:
                raise ValueError(f"peer must be the one it is stored for, got {pointer.peer!r}.")
            return pointer
