"""What is found when a peer looks at the store, and what it looks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from codistill.errors import CodistillError, StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.roster import Order, Roster
from codistill.snapshots.manifest import Manifest, ManifestReference


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the student knows when it looks; nothing in it changes while it does."""

    progress: Progress
    """How far the student is; the task loss is that of the interval."""
    roster: Roster
    """Whom it has seen; a copy."""
    held: Mapping[str, Order]
    """(incarnation, sequence) of what each teacher holds."""
    quarantined: frozenset[str] = frozenset()
    """Whose snapshots must be better than what they had."""
    divided: frozenset[str] = frozenset()
    """Whose teachers the ranks divide among them."""
    is_student_divided: bool = False
    """Whether they divide the student, and so, it is supposed, a teacher to come."""

    def is_divided(self, peer: str) -> bool:
        """Return whether every rank reads its own part of this peer's snapshots."""
        return peer in self.divided if peer in self.held else self.is_student_divided


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """A snapshot that has been found, and of which every rank will read its own part."""

    manifest: Manifest
    """What it is."""
    reference: ManifestReference
    """Where its manifest is."""
    first_seen_step: int
    """The student's step when it first saw it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A snapshot that has been read and verified, whole or what this rank needs: the standby of a teacher."""

    manifest: Manifest
    """What it is."""
    reference: ManifestReference
    """Where its manifest is."""
    contents: Sequence[Tensor]
    """The content of its shards: flat uint8 on the CPU, pinned if a student is on a GPU; none if only a
    part was read."""
    tensors: Mapping[str, Tensor]
    """The weights, decoded; perhaps views of the contents. Fragments, if only a part was read."""
    first_seen_step: int
    """The student's step when it first saw it."""

    @property
    def is_part(self) -> bool:
        """Whether only what this rank needs was read."""
        return not self.contents


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What there was."""

    look: Look
    """What was known before."""
    roster: Roster
    """Who has been seen by now."""
    wanted: tuple[str, ...] | None = None
    """Whom to learn from; None if the store did not say who is there."""
    left_out: tuple[str, ...] = ()
    """For whom there is no room."""
    arrivals: tuple[Arrival, ...] = ()
    """New snapshots, read whole."""
    discoveries: tuple[Discovery, ...] = ()
    """New snapshots, to be read by every rank in part."""
    errors: Mapping[str, CodistillError] = field(default_factory=dict)
    """By peer, what kept its snapshot from being read or used."""
    not_finite: Mapping[str, str] = field(default_factory=dict)
    """By peer, where its snapshot holds NaN."""
    too_young: tuple[str, ...] = ()
    """Who has been trained on less than half of the student's samples."""
    store_error: StoreError | None = None
    """What kept the store from being looked at."""

    @property
    def found(self) -> tuple[Arrival | Discovery, ...]:
        """New snapshots, whether they have been read or not."""
        return (*self.arrivals, *self.discoveries)

    @property
    def coming(self) -> frozenset[str]:
        """Whose snapshots are new."""
        return frozenset(one.manifest.peer for one in self.found)


def make_room(manifest: Manifest, *, is_pinned: bool) -> tuple[Tensor, ...]:
    """Return flat uint8 tensors on the CPU for the shards of a snapshot.

    Args:
        manifest: The snapshot.
        is_pinned: Whether the weights go on to a GPU.
    """
    if is_pinned:
        return tuple(
            torch.empty(shard.size_bytes, dtype=torch.uint8, pin_memory=True) for shard in manifest.shards
        )
    # NumPy asks for huge pages, torch does not: to fill them for the first time takes half as long.
    return tuple(torch.from_numpy(np.empty(shard.size_bytes, dtype=np.uint8)) for shard in manifest.shards)
