"""Reading other peers' snapshots."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor

from codistill.errors import KeyMissingError, SnapshotError, SnapshotIntegrityError, StoreError
from codistill.exchange.checkpoint.sighting import Arrival, Discovery, make_room
from codistill.fragments import Box
from codistill.snapshots.codec import decode, verify_chunk
from codistill.snapshots.info import SnapshotInfo
from codistill.snapshots.keys import check_peer_name, is_peer_name, pointer_key, shard_key
from codistill.snapshots.manifest import CHUNK_BYTES, Manifest, ManifestReference, Shard
from codistill.snapshots.partial_read import PartialRead
from codistill.snapshots.pointer import MAX_POINTER_BYTES, Pointer
from codistill.snapshots.signing import SigningKey
from codistill.stores.base import Store
from codistill.stores.opening import open_store

Used = TypeVar("Used")


class Fetcher:
    """Reads pointers, manifests and weights of one run: sizes before bytes, digests before decoding.

    **On failure**: raises a ``SnapshotError`` or ``StoreError`` that names peer and key, having changed
    nothing.
    """

    def __init__(
        self,
        store: Store,
        *,
        run_id: str | None,
        max_bytes: int | None,
        signing_key: SigningKey | None = None,
        is_pinned: bool = False,
    ) -> None:
        """Read from ``store``.

        Args:
            store: Where from.
            run_id: The run that snapshots must be of; None takes any.
            max_bytes: The largest snapshot to read; None reads any.
            signing_key: What pointers must be signed with; None takes any.
            is_pinned: Whether the weights go on to a GPU.
        """
        self._store = store
        self._run_id = run_id
        self._max_bytes = max_bytes
        self._signing_key = signing_key
        self._is_pinned = is_pinned
        self._has_given_up = False
        self.bytes_read = 0

    def give_up(self) -> None:
        """Let a download that another thread is at end at its next chunk, and all that follow."""
        self._has_given_up = True

    def pointer(self, peer: str) -> Pointer | None:
        """Return the pointer to a peer's newest snapshot, None if it has not published."""
        key = pointer_key(peer)
        try:
            content = self._read(key, MAX_POINTER_BYTES)
        except KeyMissingError:
            return None
        pointer = Pointer.from_json(content, key=key, signing_key=self._signing_key)
        self._check_run(pointer.run_id, peer, key)
        return pointer

    def manifest(self, reference: ManifestReference) -> Manifest:
        """Return the manifest that a pointer, another manifest or a saved state refers to."""
        peer = reference.peer
        content = self._read(reference.key, reference.size_bytes)
        if hashlib.sha256(content).hexdigest() != reference.sha256:
            raise SnapshotIntegrityError(
                f"Manifest {reference.key!r} of peer {peer!r} is not the one that was referred to: "
                "its digest differs.",
                peer=peer,
                key=reference.key,
            )
        manifest = Manifest.from_json(content, key=reference.key)
        self._check_run(manifest.run_id, peer, reference.key)
        return manifest

    def tensors(self, manifest: Manifest) -> dict[str, Tensor]:
        """Return the weights of a manifest, every chunk verified and those very bytes decoded."""
        return decode(manifest, self._contents(manifest))

    def fetch(self, manifest: Manifest, reference: ManifestReference, *, first_seen_step: int) -> Arrival:
        """Read a snapshot whole.

        Args:
            manifest: The snapshot.
            reference: Where its manifest is.
            first_seen_step: The student's step when it first saw it.
        """
        contents = self._contents(manifest)
        return Arrival(
            manifest=manifest,
            reference=reference,
            contents=contents,
            tensors=decode(manifest, contents),
            first_seen_step=first_seen_step,
        )

    def fetch_boxes(self, discovery: Discovery, boxes: Mapping[str, Box]) -> Arrival:
        """Read what one rank needs of a snapshot: whole chunks, verified, and of these what is in a box.

        Args:
            discovery: The snapshot.
            boxes: What to read of each tensor, by name.
        """
        manifest = discovery.manifest
        self._check_size(manifest)
        try:
            reading = PartialRead(manifest, boxes, is_pinned=self._is_pinned)
            chunk_content = np.empty(CHUNK_BYTES, dtype=np.uint8).data
        except (RuntimeError, MemoryError) as error:
            raise _no_memory(manifest) from error
        for index, chunk in reading.chunks:
            reading.take(
                index, chunk, self._read_chunk(manifest, manifest.shards[index], chunk, chunk_content)
            )
        return Arrival(
            manifest=manifest,
            reference=discovery.reference,
            contents=(),
            tensors=reading.decode(),
            first_seen_step=discovery.first_seen_step,
        )

    def follow(self, pointer: Pointer, use: Callable[[Manifest, ManifestReference], Used]) -> Used:
        """Return what ``use`` makes of the snapshot that a pointer leads to.

        If the peer replaces and deletes it meanwhile, its new pointer is followed.

        Args:
            pointer: The pointer.
            use: Given the manifest and where it is; reads what it needs.
        """
        while True:
            try:
                return use(self.manifest(pointer.manifest), pointer.manifest)
            except KeyMissingError:
                newer = self.pointer(pointer.peer)
                if newer is None or newer.order <= pointer.order:
                    raise
                pointer = newer

    def _contents(self, manifest: Manifest) -> tuple[Tensor, ...]:
        self._check_size(manifest)
        try:
            contents = make_room(manifest, is_pinned=self._is_pinned)
        except (RuntimeError, MemoryError) as error:
            raise _no_memory(manifest) from error
        for shard, content in zip(manifest.shards, contents, strict=True):
            view = content.numpy().data
            for chunk in range(len(shard.chunk_sha256)):
                self._read_chunk(
                    manifest, shard, chunk, view[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]
                )
        return contents

    def _check_size(self, manifest: Manifest) -> None:
        size_bytes = max(manifest.total_bytes, manifest.decoded_bytes)
        if self._max_bytes is not None and size_bytes > self._max_bytes:
            raise SnapshotError(
                f"Snapshot of peer {manifest.peer!r} at step {manifest.step} must be at most "
                f"{self._max_bytes} bytes, got {size_bytes}. "
                "Pass SnapshotOptions(max_bytes=...) to allow it.",
                peer=manifest.peer,
                step=manifest.step,
            )

    def _read_chunk(self, manifest: Manifest, shard: Shard, chunk: int, content: memoryview) -> memoryview:
        """Read and verify one chunk; return as much of ``content`` as it fills."""
        key = shard_key(manifest.peer, *manifest.order, shard.name)
        if self._has_given_up:
            raise StoreError(f"Reading {key!r} has been given up.", peer=manifest.peer, key=key)
        start = chunk * CHUNK_BYTES
        content = content[: shard.size_bytes - start]
        count = self._store.read_into(key, content, start=start)
        self.bytes_read += count
        verify_chunk(shard, chunk, content[:count], peer=manifest.peer, key=key)
        return content[:count]

    def _read(self, key: str, max_bytes: int) -> bytes:
        # One byte more than allowed tells a document of the right size from a larger one.
        content = self._store.read(key, max_bytes=max_bytes + 1)
        self.bytes_read += len(content)
        if len(content) > max_bytes:
            raise SnapshotIntegrityError(
                f"{key!r} must be at most {max_bytes} bytes, and is larger.", key=key
            )
        return content

    def _check_run(self, run_id: str, peer: str, key: str) -> None:
        if self._run_id is not None and run_id != self._run_id:
            raise SnapshotIntegrityError(
                f"{key!r} of peer {peer!r} must be of run {self._run_id}, got {run_id}. "
                "Give each run a store of its own.",
                peer=peer,
                key=key,
            )


def _no_memory(manifest: Manifest) -> SnapshotError:
    return SnapshotError(
        f"Snapshot of peer {manifest.peer!r} at step {manifest.step} needs {manifest.total_bytes} "
        "bytes of memory, which are not there.",
        peer=manifest.peer,
        step=manifest.step,
    )


def load_snapshot(store: str | Path | Store, peer: str) -> tuple[dict[str, Tensor], SnapshotInfo]:
    """Return the newest snapshot of a peer.

    **Ranks**: any process may call it, whether it takes part in the run or not.
    **Blocks**: while the store is read.
    **On failure**: nothing has changed.

    Args:
        store: A path, or a store.
        peer: The peer's name.

    Returns:
        Canonical name to tensor, on the CPU, for ``load_state_dict``; and what is known of it.

    Raises:
        TypeError, ValueError: If ``store`` or ``peer`` is no such thing.
        KeyMissingError: If the peer has published nothing.
        SnapshotError: If what it published cannot be used.
        StoreError: If the store cannot be read.

    Example:
        >>> from codistill.stores.memory import MemoryStore
        >>> try:
        ...     load_snapshot(MemoryStore(), "a")
        ... except KeyMissingError as error:
        ...     print(error)
        peer must be one that has published, got 'a'. Names at the memory of this process: none.
    """
    check_peer_name(peer)
    opened = open_store(store, is_read_only=True)
    try:
        return _load_newest(opened, peer)
    finally:
        if opened is not store:
            opened.close()


def _load_newest(opened: Store, peer: str) -> tuple[dict[str, Tensor], SnapshotInfo]:
    fetcher = Fetcher(opened, run_id=None, max_bytes=None)
    pointer = fetcher.pointer(peer)
    if pointer is None:
        raise KeyMissingError(
            f"peer must be one that has published, got {peer!r}. Names at {opened.describe()}: "
            f"{', '.join(filter(is_peer_name, opened.list_names('', limit=65))) or 'none'}.",
            peer=peer,
            key=pointer_key(peer),
        )
    return fetcher.follow(
        pointer, lambda manifest, _: (fetcher.tensors(manifest), SnapshotInfo.from_manifest(manifest))
    )
