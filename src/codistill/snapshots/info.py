"""What a user is told about a snapshot."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codistill.snapshots.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """A published snapshot, without the values of its tensors."""

    peer: str
    """Who published it."""
    incarnation: int
    """Which life of the peer, from 0. With `sequence` it orders snapshots; steps may go back."""
    sequence: int
    """Which snapshot of that life, from 0."""
    step: int
    """Optimizer steps the weights have taken."""
    samples: int
    """Samples the peer had consumed, over all its ranks."""
    task_loss: float | None
    """Mean task loss since the publish before, or None."""
    interval_steps: int
    """Steps between two publishes of this peer."""
    codec: str
    """How the tensors are encoded."""
    finished: bool
    """Whether the peer's training is over."""
    metadata: Mapping[str, Any]
    """What the user gave as ``SnapshotOptions(metadata=...)``."""
    size_bytes: int
    """Bytes in the store, without the manifest."""
    tensors: Mapping[str, tuple[int, ...]]
    """Shape of every tensor by name, all names of tied ones included."""

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "SnapshotInfo":
        """Return the part of a manifest that concerns users."""
        return cls(
            peer=manifest.peer,
            incarnation=manifest.incarnation,
            sequence=manifest.sequence,
            step=manifest.step,
            samples=manifest.samples,
            task_loss=manifest.task_loss,
            interval_steps=manifest.interval_steps,
            codec=manifest.codec,
            finished=manifest.finished,
            metadata=manifest.metadata,
            size_bytes=manifest.total_bytes,
            tensors=manifest.shapes,
        )
