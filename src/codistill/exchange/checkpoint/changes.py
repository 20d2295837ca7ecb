"""What is to become of a student's teachers, on all ranks alike."""

import base64
import json
from dataclasses import dataclass

from torch import Tensor

from codistill.exchange.checkpoint.sighting import Arrival, make_room
from codistill.snapshots.codec import decode
from codistill.snapshots.document import Fields
from codistill.snapshots.manifest import Manifest, ManifestReference


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What rank 0 has decided, having looked at the store."""

    wanted: tuple[str, ...]
    """Whose teachers to keep or make."""
    quarantined: frozenset[str] = frozenset()
    """Whom not to listen to."""
    arrivals: tuple[Arrival, ...] = ()
    """New snapshots for them."""

    def to_json(self) -> bytes:
        """Return all but the values of tensors, for the other ranks."""
        return json.dumps(
            {
                "wanted": list(self.wanted),
                "quarantined": sorted(self.quarantined),
                "arrivals": [
                    {
                        "manifest": base64.b64encode(arrival.manifest.to_json()).decode(),
                        "reference": arrival.reference.to_fields(),
                        "first_seen_step": arrival.first_seen_step,
                    }
                    for arrival in self.arrivals
                ],
            }
        ).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """Changes of which another rank than 0 has everything but the values of the tensors."""

    wanted: tuple[str, ...]
    quarantined: frozenset[str]
    manifests: tuple[tuple[Manifest, ManifestReference, int], ...]
    contents: tuple[tuple[Tensor, ...], ...]
    """Room for the shards of each."""

    @classmethod
    def from_json(cls, data: bytes, *, is_pinned: bool) -> "Announced":
        """Parse what ``Changes.to_json`` returned on rank 0, and make room.

        Args:
            data: The bytes.
            is_pinned: Whether the weights go on to a GPU.
        """
        fields = Fields.parse(data, max_bytes=2**62)
        manifests = []
        for arrival in fields.objects("arrivals", limit=2**20):
            reference = ManifestReference.from_fields(arrival.fields("reference"))
            manifest = Manifest.from_json(base64.b64decode(arrival.text("manifest")), key=reference.key)
            manifests.append((manifest, reference, arrival.integer("first_seen_step")))
        return cls(
            wanted=tuple(map(str, fields.array("wanted", limit=2**20))),
            quarantined=frozenset(map(str, fields.array("quarantined", limit=2**20))),
            manifests=tuple(manifests),
            contents=tuple(make_room(manifest, is_pinned=is_pinned) for manifest, _, _ in manifests),
        )

    def decode(self) -> Changes:
        """Return the changes, once the values are there."""
        return Changes(
            wanted=self.wanted,
            quarantined=self.quarantined,
            arrivals=tuple(
                Arrival(
                    manifest=manifest,
                    reference=reference,
                    contents=contents,
                    tensors=decode(manifest, contents),
                    first_seen_step=step,
                )
                for (manifest, reference, step), contents in zip(self.manifests, self.contents, strict=True)
            ),
        )
