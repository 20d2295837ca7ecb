"""What is to become of a student's teachers, on all ranks alike."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from codistill.exchange.checkpoint.sighting import Arrival, Discovery, make_room
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
    discoveries: tuple[Discovery, ...] = ()
    """New snapshots for them of which every rank reads its own part; among the arrivals once it has."""
    unread: Mapping[str, Exception] = field(default_factory=dict)
    """By peer, what kept this rank from reading its part."""

    @property
    def found(self) -> tuple[Arrival | Discovery, ...]:
        """New snapshots, whether they have been read or not."""
        return (*self.arrivals, *self.discoveries)

    @property
    def coming(self) -> frozenset[str]:
        """Whose snapshots are new."""
        return frozenset(one.manifest.peer for one in self.found)

    def to_json(self) -> bytes:
        """Return all but the values of tensors, for the other ranks."""
        return json.dumps(
            {
                "wanted": list(self.wanted),
                "quarantined": sorted(self.quarantined),
                "arrivals": list(map(_to_fields, self.arrivals)),
                "discoveries": list(map(_to_fields, self.discoveries)),
            }
        ).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """Changes of which another rank than 0 has everything but the values of the tensors."""

    wanted: tuple[str, ...]
    quarantined: frozenset[str]
    whole: tuple[Discovery, ...]
    """What rank 0 has read and sends."""
    contents: tuple[tuple[Tensor, ...], ...]
    """Room for the shards of each of these."""
    discoveries: tuple[Discovery, ...]
    """What this rank reads itself, in part."""

    @classmethod
    def from_json(cls, data: bytes, *, is_pinned: bool) -> "Announced":
        """Parse what ``Changes.to_json`` returned on rank 0, and make room.

        Args:
            data: The bytes.
            is_pinned: Whether the weights go on to a GPU.
        """
        fields = Fields.parse(data, max_bytes=2**62)
        whole = tuple(map(_from_fields, fields.objects("arrivals", limit=2**20)))
        return cls(
            wanted=tuple(map(str, fields.array("wanted", limit=2**20))),
            quarantined=frozenset(map(str, fields.array("quarantined", limit=2**20))),
            whole=whole,
            contents=tuple(make_room(found.manifest, is_pinned=is_pinned) for found in whole),
            discoveries=tuple(map(_from_fields, fields.objects("discoveries", limit=2**20))),
        )

    def decode(self) -> Changes:
        """Return the changes, once the values are there."""
        return Changes(
            wanted=self.wanted,
            quarantined=self.quarantined,
            arrivals=tuple(
                Arrival(
                    manifest=found.manifest,
                    reference=found.reference,
                    contents=contents,
                    tensors=decode(found.manifest, contents),
                    first_seen_step=found.first_seen_step,
                )
                for found, contents in zip(self.whole, self.contents, strict=True)
            ),
            discoveries=self.discoveries,
        )


def _to_fields(found: Arrival | Discovery) -> dict[str, Any]:
    return {
        "manifest": base64.b64encode(found.manifest.to_json()).decode(),
        "reference": found.reference.to_fields(),
        "first_seen_step": found.first_seen_step,
    }


def _from_fields(fields: Fields) -> Discovery:
    reference = ManifestReference.from_fields(fields.fields("reference"))
    return Discovery(
        manifest=Manifest.from_json(base64.b64decode(fields.text("manifest")), key=reference.key),
        reference=reference,
        first_seen_step=fields.integer("first_seen_step"),
    )
