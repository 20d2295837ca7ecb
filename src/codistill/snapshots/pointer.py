"""The pointer: which of a peer's snapshots is the newest."""

import json
from dataclasses import dataclass
from typing import Final

from codistill.errors import SnapshotIntegrityError
from codistill.snapshots.document import RUN_ID, SHA256, Fields, refusals, write_document
from codistill.snapshots.keys import check_peer_name, manifest_key, pointer_key
from codistill.snapshots.manifest import ManifestReference
from codistill.snapshots.signing import SigningKey

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

    def to_json(self, *, signing_key: SigningKey | None = None) -> bytes:
        """Return the document's bytes.

        Args:
            signing_key: Signs it; None leaves it unsigned.
        """
        body = write_document(
            {
                "run_id": self.run_id,
                "peer": self.peer,
                "incarnation": self.incarnation,
                "sequence": self.sequence,
                "manifest": self.manifest.to_fields(),
            }
        )
        mac = None if signing_key is None else signing_key.mac(body)
        return json.dumps({"body": body.decode(), "mac": mac}).encode()

    @classmethod
    def from_json(cls, data: bytes, *, key: str, signing_key: SigningKey | None = None) -> "Pointer":
        """Parse a pointer that somebody else wrote.

        Args:
            data: What was read.
            key: Where it was read; the peer in it must agree with the key.
            signing_key: Whose signature (``mac``) it must bear. With None it is read whether signed or
                not, and a signature is not checked: there is nothing to check it with.

        Raises:
            SnapshotFormatError: If a field is not as the format says, or the format is newer.
            SnapshotIntegrityError: If it is not signed with the key.
        """
        with refusals("pointer", key):
            envelope = Fields.parse(data, max_bytes=MAX_POINTER_BYTES)
            mac = None if envelope.is_null("mac") else envelope.text("mac", SHA256)
            body = envelope.text("body").encode()
            if signing_key is not None:
                _check_signature(body, mac, key=key, signing_key=signing_key)
            fields = Fields.of_document(body, max_bytes=MAX_POINTER_BYTES)
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


def _check_signature(body: bytes, mac: str | None, *, key: str, signing_key: SigningKey) -> None:
    if mac is None:
        wrong = "it is not signed"
    elif not signing_key.verify(body, mac):
        wrong = "it is signed with another key, or was altered"
    else:
        return
    raise SnapshotIntegrityError(
        f"The pointer at {key!r} must be signed with this peer's signing key, and {wrong}. "
        "Give all peers of the run the same signing_key_file.",
        peer=key.split("/", 1)[0],
        key=key,
    )
