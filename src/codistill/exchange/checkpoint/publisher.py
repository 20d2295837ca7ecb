"""Writing this peer's snapshots."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import nn

from codistill.arguments import check_int, check_type
from codistill.errors import StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.retention import Retention
from codistill.exchange.checkpoint.roster import Order
from codistill.snapshots.codec import EncodedSnapshot, check_codec
from codistill.snapshots.fingerprint import fingerprint
from codistill.snapshots.keys import (
    manifest_key,
    pointer_key,
    shard_key,
    shard_name,
    snapshot_prefix,
    snapshots_prefix,
)
from codistill.snapshots.manifest import Manifest, ManifestReference, Shard, TensorEntry
from codistill.snapshots.metadata import check_metadata
from codistill.snapshots.pointer import Pointer
from codistill.snapshots.shards import MAX_SHARDS
from codistill.snapshots.signing import SigningKey
from codistill.snapshots.written_shard import WrittenShard, merge
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
    """How weights are written: "exact" keeps every bit, "bfloat16" halves float32, "int8" quarters it."""
    keep: int | None = None
    """Snapshots of this peer to keep, beside those that somebody is reading; None keeps 2, and in lockstep
    all, as a resumed peer needs them."""
    publish_from: nn.Module | None = None
    """The module whose weights are published in place of the student's, such as their moving average."""
    signing_key_file: str | Path | None = None
    """A file with a secret of 32 bytes or more, the same for all peers: what was not signed with it is
    refused."""
    metadata: Mapping[str, Any] | None = None
    """Anything that JSON holds; travels with every snapshot, for the others' ``build``."""
    max_bytes: int | None = None
    """The largest snapshot to fetch; None allows 4 times the student's own size, and 1 MiB at least."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_codec(self.codec)
        if self.publish_from is not None:
            check_type("publish_from", self.publish_from, nn.Module)
        for argument in ("keep", "max_bytes"):
            value = getattr(self, argument)
            if value is not None:
                check_int(argument, value, minimum=1, hint="Leave it out for the default.")
        if self.metadata is not None:
            check_metadata(self.metadata)


@final
class Publisher:
    """Writes snapshots of one life of a peer: shards, then the manifest, then the pointer.

    **Ranks**: rank 0, any one thread at a time.
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
        codec: str = "exact",
        signing_key: SigningKey | None = None,
        keep: int | None = None,
        retention: Retention | None = None,
        is_still_ours: Callable[[], bool] = lambda: True,
        previous: ManifestReference | None = None,
        kept: Sequence[Order] = (),
    ) -> None:
        """Begin to publish.

        Args:
            store: Where to.
            life: Who publishes.
            codec: How weights are encoded.
            signing_key: Signs every pointer; None signs none.
            keep: How many snapshots to keep; None keeps all.
            retention: Knows which snapshots others are reading; None spares none.
            is_still_ours: Tells whether the name has not been taken over by a later life.
            previous: The peer's last snapshot, of an earlier life.
            kept: (incarnation, sequence) of those that count among the ones to keep, oldest first.
        """
        self._store = store
        self._life = life
        self._codec = codec
        self._signing_key = signing_key
        self._keep = keep
        self._retention = retention
        self._is_still_ours = is_still_ours
        self._previous = previous
        self._kept = list(kept)
        self._next_sequence = 0
        self._digests: dict[int, str] = {}
        self._shards: dict[Order, int] = {}

    @property
    def life(self) -> Life:
        """Who publishes."""
        return self._life

    @property
    def previous(self) -> ManifestReference | None:
        """The peer's last snapshot."""
        return self._previous

    @property
    def kept(self) -> tuple[Order, ...]:
        """(incarnation, sequence) of the snapshots that are there, oldest first."""
        return tuple(self._kept)

    @property
    def digests(self) -> Mapping[int, str]:
        """Content digests of what was published lately, by step."""
        return self._digests

    def publish(self, encoded: EncodedSnapshot, progress: Progress, *, finished: bool) -> int:
        """Write one snapshot and point to it.

        Args:
            encoded: The weights, in this publisher's codec.
            progress: How far the student had come with them.
            finished: No other will follow.

        Returns:
            Bytes written; 0 if a later life has taken the name, and nothing was published.

        Raises:
            StoreError: If the store refuses.
        """
        shards = tuple(shard for shard, _ in encoded.shards)
        manifest = self._describe(
            encoded.tensors,
            encoded.aliases,
            shards,
            progress,
            sequence=self._next_sequence,
            finished=finished,
        )
        # Before the first byte is written: a store that fails may have written it nevertheless, somebody may
        # have read it, and what has been read under a number never changes.
        self._note_begun(manifest.order, len(shards))
        document = manifest.to_json()
        try:
            for shard, content in encoded.shards:
                self._store.write(shard_key(manifest.peer, *manifest.order, shard.name), content)
        except StoreError:
            self._try_to_delete(manifest.order)
            raise
        pointed = self._point_to(manifest, document, progress)
        return pointed and pointed + manifest.total_bytes

    def publish_written(
        self, written: Sequence[WrittenShard], progress: Progress, *, sequence: int, finished: bool
    ) -> int:
        """Point to a snapshot of which every rank has written its own shard.

        Args:
            written: What was written, in the order of the shards' numbers.
            progress: How far the student had come with it.
            sequence: Under which number; higher than any before.
            finished: No other will follow.

        Returns:
            Bytes written here, of manifest and pointer; 0 if a later life has taken the name, and nothing was
            published.

        Raises:
            StoreError: If the store refuses.
        """
        tensors, aliases = merge(written)
        shards = tuple(one.shard for one in written)
        manifest = self._describe(tensors, aliases, shards, progress, sequence=sequence, finished=finished)
        self._note_begun(manifest.order, len(shards))
        return self._point_to(manifest, manifest.to_json(), progress)

    def abandon(self, sequence: int, *, shards: int) -> None:
        """Delete what ranks have written of a snapshot that will not be one.

        **On failure**: what cannot be deleted stays; nobody reads it.

        Args:
            sequence: Its number.
            shards: How many shards it has.
        """
        order = (self._life.incarnation, sequence)
        self._note_begun(order, shards)
        self._try_to_delete(order)

    def _note_begun(self, order: Order, shards: int) -> None:
        self._next_sequence = order[1] + 1
        self._shards[order] = shards

    def _point_to(self, manifest: Manifest, document: bytes, progress: Progress) -> int:
        """Write manifest and pointer of a snapshot whose shards are there; return their bytes."""
        try:
            self._store.write(manifest.key, document)
            # All this may have taken minutes: a pointer must not go back behind that of a later life.
            if not self._is_still_ours():
                self._delete(manifest.order)
                return 0
        except StoreError:
            self._try_to_delete(manifest.order)
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
        ).to_json(signing_key=self._signing_key)
        self._store.write(pointer_key(manifest.peer), pointer)
        self._previous = reference
        self._digests = dict(
            [*self._digests.items(), (progress.step, manifest.content_digest)][-_REMEMBERED:]
        )
        self._delete_old()
        return len(document) + len(pointer)

    def delete_unfinished(self, *, after: Order | None) -> None:
        """Delete what an earlier life was killed while writing, as far as the store allows it.

        Args:
            after: What the peer's pointer leads to; nobody was ever pointed to anything later. None if there
                is no pointer.
        """
        with suppress(StoreError):
            self._store.sweep(snapshots_prefix(self._life.peer))
            # Of that life only: an owner that did not know that it was followed may have moved it back.
            for order in list(self._kept):
                if after is None or (order[0] == after[0] and order > after):
                    self._delete(order)
                    self._kept.remove(order)

    def _describe(
        self,
        tensors: tuple[TensorEntry, ...],
        aliases: Mapping[str, str],
        shards: tuple[Shard, ...],
        progress: Progress,
        *,
        sequence: int,
        finished: bool,
    ) -> Manifest:
        shapes = {tensor.name: tensor.shape for tensor in tensors}
        shapes |= {alias: shapes[name] for alias, name in aliases.items()}
        return Manifest(
            run_id=self._life.run_id,
            peer=self._life.peer,
            incarnation=self._life.incarnation,
            sequence=sequence,
            step=progress.step,
            samples=progress.samples,
            task_loss=progress.task_loss,
            interval_steps=self._life.interval_steps,
            codec=self._codec,
            finished=finished,
            metadata=self._life.metadata,
            fingerprint=fingerprint(shapes),
            tensors=tensors,
            aliases=aliases,
            shards=shards,
            previous=self._previous,
        )

    def _delete_old(self) -> None:
        """Delete what is no longer to be kept; the next publish tries again what cannot be deleted now."""
        if self._keep is None or len(self._kept) <= self._keep:
            return
        try:
            spared = self._retention.spared() if self._retention is not None else set()
            for order in self._kept[: -self._keep]:
                if order not in spared:
                    self._delete(order)
                    self._kept.remove(order)
        except StoreError:
            return

    def _try_to_delete(self, order: Order) -> None:
        # A store that is full must not be filled with what nobody will read.
        with suppress(StoreError):
            self._delete(order)

    def _delete(self, order: Order) -> None:
        # The manifest goes first: a reader that misses it asks for the pointer again.
        self._store.delete(manifest_key(self._life.peer, *order))
        for name in self._shard_names(order):
            self._store.delete(shard_key(self._life.peer, *order, name))
        self._shards.pop(order, None)

    def _shard_names(self, order: Order) -> list[str]:
        count = self._shards.get(order)
        if count is not None:
            return [shard_name(index, count) for index in range(1, count + 1)]
        # An earlier life may have had another number of ranks.
        return self._store.list_names(snapshot_prefix(self._life.peer, *order), limit=MAX_SHARDS)
