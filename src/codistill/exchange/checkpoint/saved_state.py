"""What a peer needs to know of its own past to go on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from codistill.exchange.checkpoint.roster import Sighted
from codistill.snapshots.document import Fields
from codistill.snapshots.manifest import ManifestReference


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTeacher:
    """A teacher's identity; its weights are in the store."""

    manifest: ManifestReference
    """The snapshot that it held."""
    first_seen_step: int
    """The student's step at which it first saw that snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """An earlier life of a peer, as its ``state_dict`` holds it: plain dicts, lists, strings and numbers."""

    peer: str
    """The peer's name."""
    run_id: str
    """The run it took part in."""
    incarnation: int
    """Which life it was."""
    previous: ManifestReference | None
    """Its last snapshot."""
    teachers: Mapping[str, SavedTeacher]
    """Its teachers, by peer."""
    seen: Mapping[str, Sighted] = field(default_factory=dict)
    """The newest snapshot that it has seen of every peer: no reader goes back behind it."""
    is_of_rank_0: bool = True
    """Whether rank 0 saved it, which alone knows ``previous`` and ``seen``."""

    def to_dict(self) -> dict[str, Any]:
        """Return what ``from_dict`` reads."""
        return {
            "peer": self.peer,
            "run_id": self.run_id,
            "incarnation": self.incarnation,
            "is_of_rank_0": self.is_of_rank_0,
            "previous": None if self.previous is None else self.previous.to_fields(),
            "teachers": {
                peer: {"manifest": teacher.manifest.to_fields(), "first_seen_step": teacher.first_seen_step}
                for peer, teacher in self.teachers.items()
            },
            "seen": {
                peer: {
                    "incarnation": sighted.order[0],
                    "sequence": sighted.order[1],
                    "first_seen_step": sighted.step,
                }
                for peer, sighted in self.seen.items()
            },
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "SavedState":
        """Parse what ``to_dict`` returned.

        Raises:
            ValueError: If a field is missing or not what it should be.
        """
        # What was saved before readers remembered, and before there were ranks, lacks these.
        fields = Fields({"seen": {}, "is_of_rank_0": True, **state}, "state")
        teachers = {
            peer: Fields(saved, f"teachers[{peer!r}]") for peer, saved in fields.items("teachers", limit=64)
        }
        seen = {peer: Fields(saved, f"seen[{peer!r}]") for peer, saved in fields.items("seen", limit=2**20)}
        return cls(
            peer=fields.text("peer"),
            run_id=fields.text("run_id"),
            incarnation=fields.integer("incarnation"),
            is_of_rank_0=fields.boolean("is_of_rank_0"),
            previous=None
            if fields.is_null("previous")
            else ManifestReference.from_fields(fields.fields("previous")),
            teachers={
                peer: SavedTeacher(
                    manifest=ManifestReference.from_fields(saved.fields("manifest")),
                    first_seen_step=saved.integer("first_seen_step"),
                )
                for peer, saved in teachers.items()
            },
            seen={
                peer: Sighted(
                    (saved.integer("incarnation"), saved.integer("sequence")),
                    saved.integer("first_seen_step"),
                )
                for peer, saved in seen.items()
            },
        )
