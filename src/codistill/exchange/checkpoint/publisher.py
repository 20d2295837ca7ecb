"""Writing this peer's snapshots."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from codistill.arguments import check_int
from codistill.errors import StoreError
from codistill.exchange.base import Progress
from codistill.snapshots.codec import check_codec, encode_exact
from codistill.snapshots.fingerprint import fingerprint
from codistill.snapshots.keys import manifest_key, pointer_key, shard_key, shard_name, status_key
from codistill.snapshots.manifest import Manifest, ManifestReference
from codistill.snapshots.metadata import check_metadata
from codistill.snapshots.pointer import Pointer
from codistill.snapshots.status import State, Status
from codistill.stores.base import Store

# Snapshots of one's own whose content is remembered, to notice peers that are identical.
_REMEMBERED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotOptions:
    """What is published, and how much of it is kept.

    Raises:
        TypeError, ValueError: If a field is not as described.
    """

    codec: str = "exact"
    """How weights are written; "exact" keeps every bit."""
    keep: int | None = None
    """Snapshots of this peer to keep; None keeps 2, and in lockstep all, as a resumed peer needs them."""
    metadata: Mapping[str, Any] | None = None
    """Anything that JSON holds; travels with every snapshot, for the others' ``build``."""
    max_bytes: int | None = None
    """The largest snapshot to fetch; None allows 4 times the student's own size, and 1 MiB at least."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_codec(self.codec)
        for argument in ("keep", "max_bytes"):
            value = getattr(self, argument)
            if value is not None:
                check_int(argument, value, minimum=1, hint="Leave it out for the default.")
        if self.metadata is not None:
            check_metadata(self.metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One life of a peer: what all snapshots that it publishes have in common."""

    run_id: str
    """Id of the run."""
    peer: str
    """The peer's name."""
    incarnation: int
    """Which life of the peer, from 0."""
    interval_steps: int
    """Steps between two publishes."""
    metadata: Mapping[str, Any]
    """What the user attaches."""


class Publisher:
    """Writes snapshots of one life of a peer: shards, then the manifest, then the pointer.

    **Ranks**: the one process of the peer.
    **Blocks**: ``publish``, until the store has taken everything.
    **On failure**: what was written without a pointer is no snapshot, and nobody reads it; the one
    before goes on serving, what was written is deleted if the store allows it, and the next publish has a
    number of its own.
    """

    def __init__(
        self,
        store: Store,
        life: Life,
        *,
        keep: int | None,
        previous: ManifestReference | None = None,
        kept: tuple[tuple[int, int], ...] = (),
    ) -> None:
        """Begin to publish.

        Args:
            store: Where to.
            life: Who publishes.
            keep: How many snapshots to keep; None keeps all.
            previous: The peer's last snapshot, of an earlier life.
            kept: (incarnation, sequence) of those that count among the ones to keep, oldest first.
        """
        self._store = store
        self._life = life
        self._keep = keep
        self._previous = previous
        self._kept = list(kept)
        self._next_sequence = 0
        self._heartbeat = 0
        self._digests: dict[int, str] = {}

    @property
    def life(self) -> Life:
        """Who publishes."""
        return self._life

    @property
    def previous(self) -> ManifestReference | None:
        """The peer's last snapshot."""
        return self._previous

    @property
    def kept(self) -> tuple[tuple[int, int], ...]:
        """(incarnation, sequence) of the snapshots that are there, oldest first."""
        return tuple(self._kept)

    def tell(self, state: State, progress: Progress, reading: Mapping[str, tuple[int, int]]) -> None:
        """Write the status that ``codistill peers`` shows, with a heartbeat that moves.

        Args:
            state: "running", or how this life ended.
            progress: How far the student has come.
            reading: Its teachers, to (incarnation, sequence) of their snapshots.

        Raises:
            StoreError: If the store refuses.
        """
        self._heartbeat += 1
        status = Status(
            run_id=self._life.run_id,
            peer=self._life.peer,
            incarnation=self._life.incarnation,
            heartbeat=self._heartbeat,
            step=progress.step,
            samples=progress.samples,
            task_loss=progress.task_loss,
            distillation_loss=progress.distillation_loss,
            state=state,
            reading=reading,
        )
        self._store.write(status_key(self._life.peer), status.to_json())

    @property
    def digests(self) -> Mapping[int, str]:
        """Content digests of what was published lately, by step."""
        return self._digests

    def publish(self, tensors: Mapping[str, Tensor], progress: Progress, *, finished: bool) -> int:
        """Write one snapshot and point to it.

        Args:
            tensors: Canonical name to tensor.
            progress: How far the student has come.
            finished: No other will follow.

        Returns:
            Bytes written.

        Raises:
            TypeError: If a tensor is of a kind that safetensors cannot hold.
            StoreError: If the store refuses.
        """
        manifest, contents = self._encode(tensors, progress, finished=finished)
        # Before the first byte is written: a store that fails may have written it nevertheless, somebody may
        # have read it, and what has been read under a number never changes.
        self._next_sequence += 1
        document = manifest.to_json()
        try:
            for shard, content in zip(manifest.shards, contents, strict=True):
                self._store.write(shard_key(manifest.peer, *manifest.order, shard.name), content)
            self._store.write(manifest.key, document)
        except StoreError:
            # A store that is full must not be filled with what nobody will read.
            with suppress(StoreError):
                self._delete(manifest.order)
            raise
        # From here on somebody may be pointed to it: it is deleted in its turn only.
        self._kept.append(manifest.order)
        reference = ManifestReference(
            key=manifest.key, size_bytes=len(document), sha256=hashlib.sha256(document).hexdigest()
        )
        pointer = Pointer(
            run_id=manifest.run_id,
            peer=manifest.peer,
            incarnation=manifest.incarnation,
            sequence=manifest.sequence,
            manifest=reference,
        ).to_json()
        self._store.write(pointer_key(manifest.peer), pointer)
        self._previous = reference
        self._digests[progress.step] = manifest.content_digest
        self._digests = dict(list(self._digests.items())[-_REMEMBERED:])
        self._delete_old()
        return manifest.total_bytes + len(document) + len(pointer)

    def _encode(
        self, tensors: Mapping[str, Tensor], progress: Progress, *, finished: bool
    ) -> tuple[Manifest, list[bytes]]:
        encoded = encode_exact(tensors)
        manifest = Manifest(
            run_id=self._life.run_id,
            peer=self._life.peer,
            incarnation=self._life.incarnation,
            sequence=self._next_sequence,
            step=progress.step,
            samples=progress.samples,
            task_loss=progress.task_loss,
            interval_steps=self._life.interval_steps,
            codec="exact",
            finished=finished,
            metadata=self._life.metadata,
            fingerprint=fingerprint({name: tensor.shape for name, tensor in tensors.items()}),
            tensors=encoded.tensors,
            aliases=encoded.aliases,
            shards=tuple(shard for shard, _ in encoded.shards),
            previous=self._previous,
        )
        return manifest, [content for _, content in encoded.shards]

    def _delete_old(self) -> None:
        """Delete what is no longer to be kept; the next publish tries again what cannot be deleted now."""
        while self._keep is not None and len(self._kept) > self._keep:
            try:
                self._delete(self._kept[0])
            except StoreError:
                return
            self._kept.pop(0)

    def _delete(self, order: tuple[int, int]) -> None:
        # The manifest goes first: a reader that misses it asks for the pointer again.
        self._store.delete(manifest_key(self._life.peer, *order))
        self._store.delete(shard_key(self._life.peer, *order, shard_name(1, 1)))
