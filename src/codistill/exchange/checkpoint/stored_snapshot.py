"""A snapshot as it lies in a store, whole or not."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from codistill.errors import (
    CodistillError,
    KeyMissingError,
    SnapshotError,
    SnapshotIntegrityError,
    StoreError,
)
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.roster import Order
from codistill.snapshots.codec import verify_chunk
from codistill.snapshots.keys import manifest_key, shard_key
from codistill.snapshots.manifest import CHUNK_BYTES, MAX_MANIFEST_BYTES, Manifest, ManifestReference, Shard
from codistill.stores.base import Store

_LARGEST_BYTES: Final = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSnapshot:
    """What is known of one folder of a peer's snapshots; neither its manifest nor its weights are kept."""

    peer: str
    """Whose it is."""
    order: Order
    """Its (incarnation, sequence)."""
    sizes: Mapping[str, int]
    """Size of every value in the folder, by key."""
    errors: Mapping[str, CodistillError]
    """By key, what is wrong with the manifest or a shard."""
    reference: ManifestReference | None = None
    """Its manifest, as whatever leads to it must name it; None if nothing can."""
    step: int | None = None
    """Optimizer steps that the weights have taken; None without a manifest that can be used."""
    previous: ManifestReference | None = None
    """The peer's snapshot before it, by the manifest."""
    strays: tuple[str, ...] = ()
    """Keys in the folder that the manifest does not name."""

    @property
    def key(self) -> str:
        """The key of its manifest."""
        return manifest_key(self.peer, *self.order)

    @property
    def has_manifest(self) -> bool:
        """Whether there is a manifest, which may be damaged."""
        return self.key in self.sizes

    @property
    def is_described(self) -> bool:
        """Whether there is a manifest that can be used; shards may be damaged."""
        return self.step is not None

    @property
    def size_bytes(self) -> int:
        """Size of the whole folder."""
        return sum(self.sizes.values())


def read_stored(
    store: Store, fetcher: Fetcher, peer: str, order: Order, names: Sequence[str]
) -> StoredSnapshot | None:
    """Read a snapshot whole and verify every digest in its manifest.

    Whether the manifest is the one that was published only what leads to it can say.

    **Blocks**: while it is read, 8 MiB at a time.
    **On failure**: what cannot be read is an error in what is returned.

    Args:
        store: The run's store.
        fetcher: Reads manifests of the run.
        peer: Whose it is.
        order: Its (incarnation, sequence).
        names: What lies in its folder.

    Returns:
        What was found; None if nothing is there any more.
    """
    key = manifest_key(peer, *order)
    keys = [shard_key(peer, *order, name) for name in names]
    if key not in keys:
        sizes = _measure(store, keys)
        return StoredSnapshot(peer=peer, order=order, sizes=sizes, errors={}) if sizes else None
    errors: dict[str, CodistillError] = {}
    manifest = reference = None
    try:
        reference = _refer_to(store, key)
        manifest = fetcher.manifest(reference)
    except KeyMissingError:
        return None
    except (SnapshotError, StoreError) as error:
        errors[key] = error
    verified = {} if manifest is None else _verify(store, manifest, errors)
    if any(isinstance(error, KeyMissingError) for error in errors.values()) and not _is_there(store, key):
        return None
    if manifest is not None and reference is not None:
        verified[key] = reference.size_bytes
    named = {key} if manifest is None else {key, *_shard_keys(manifest)}
    return StoredSnapshot(
        peer=peer,
        order=order,
        sizes=verified | _measure(store, (other for other in keys if other not in verified)),
        errors=errors,
        reference=reference,
        step=None if manifest is None else manifest.step,
        previous=None if manifest is None else manifest.previous,
        strays=() if manifest is None else tuple(other for other in keys if other not in named),
    )


def _refer_to(store: Store, key: str) -> ManifestReference:
    content = store.read(key, max_bytes=MAX_MANIFEST_BYTES + 1)
    if not 0 < len(content) <= MAX_MANIFEST_BYTES:
        rule = f"between 1 and {MAX_MANIFEST_BYTES} bytes"
        raise SnapshotIntegrityError(f"{key!r} must be {rule}, and is empty or larger.", key=key)
    return ManifestReference(key=key, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _verify(store: Store, manifest: Manifest, errors: dict[str, CodistillError]) -> dict[str, int]:
    """Return the sizes of the shards that are sound, by key; what is wrong with the others goes to errors."""
    sound = {}
    for key, shard in zip(_shard_keys(manifest), manifest.shards, strict=True):
        try:
            _verify_shard(store, manifest.peer, key, shard)
        except (SnapshotError, StoreError) as error:
            errors[key] = error
        else:
            sound[key] = shard.size_bytes
    return sound


def _verify_shard(store: Store, peer: str, key: str, shard: Shard) -> None:
    for chunk in range(len(shard.chunk_sha256)):
        start = chunk * CHUNK_BYTES
        part = store.read(key, max_bytes=min(CHUNK_BYTES, shard.size_bytes - start), start=start)
        verify_chunk(shard, chunk, part, peer=peer, key=key)


def _shard_keys(manifest: Manifest) -> list[str]:
    return [shard_key(manifest.peer, *manifest.order, shard.name) for shard in manifest.shards]


def _measure(store: Store, keys: Iterable[str]) -> dict[str, int]:
    """Return the sizes of those keys that have a value which can be read."""
    sizes = {}
    for key in keys:
        try:
            sizes[key] = _size(store, key)
        except (StoreError, ValueError):
            continue
    return sizes


def _size(store: Store, key: str) -> int:
    # A store tells no sizes, but a read past the end is empty: found by doubling, then by halving.
    size = len(store.read(key, max_bytes=CHUNK_BYTES))
    if size < CHUNK_BYTES:
        return size
    low, high = CHUNK_BYTES, 2 * CHUNK_BYTES
    while high < _LARGEST_BYTES and store.read(key, max_bytes=1, start=high - 1):
        low, high = high, 2 * high
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if store.read(key, max_bytes=1, start=middle - 1) else (low, middle)
    return low


def _is_there(store: Store, key: str) -> bool:
    try:
        store.read(key, max_bytes=1)
    except KeyMissingError:
        return False
    return True
