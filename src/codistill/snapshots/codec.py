"""The exact codec: tensors to safetensors files and back, every dtype to the bit."""

import hashlib
import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.parameter import is_lazy

from codistill.errors import SnapshotFormatError, SnapshotIntegrityError
from codistill.snapshots.keys import shard_name
from codistill.snapshots.manifest import CHUNK_BYTES, Manifest, Part, Shard, TensorEntry
from codistill.snapshots.tensors import DTYPES, check_tensor_name, content_digest

CODECS: Final = ("exact",)
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
_HeaderEntry = tuple[str, tuple[int, ...], int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSnapshot:
    """A state as the files that are published, and how to find its tensors in them."""

    shards: tuple[tuple[Shard, bytes], ...]
    """Each file with its content."""
    tensors: tuple[TensorEntry, ...]
    """The stored tensors."""
    aliases: Mapping[str, str]
    """Further names of tied tensors, to the name they are stored under."""

    @property
    def content_digest(self) -> str:
        """One digest of all tensors, the same as the manifest's."""
        return content_digest([shard for shard, _ in self.shards])


def check_codec(codec: str, argument: str = "codec") -> str:
    """Return `codec` if there is such a one.

    Raises:
        ValueError: If there is none; the message lists those that exist.
    """
    if codec not in CODECS:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, CODECS))}, got {codec!a:.80}.")
    return codec


def check_state(state: Mapping[str, object]) -> None:
    """Refuse a state that `encode_exact` could not encode, without encoding it.

    Raises:
        TypeError: If a value is not a plain dense tensor of a dtype that safetensors keeps.
        ValueError: If there is no tensor, or a name cannot be stored.
    """
    if not state:
        raise ValueError("state must hold at least one tensor, got none. There is nothing to publish.")
    for name, value in state.items():
        check_tensor_name(name)
        _check(name, value)


def encode_exact(state: Mapping[str, Tensor]) -> EncodedSnapshot:
    """Encode a state without loss.

    Tied tensors (the same memory seen the same way under two names) are stored once. Equal states
    give equal bytes, whatever their devices and strides.

    Args:
        state: Tensors by name, as of ``state_dict()``; read only. What is on another device is
            copied to the CPU, which waits for that device.

    Raises:
        TypeError: If a value is not a plain dense tensor of a dtype that safetensors keeps.
        ValueError: If there is no tensor, or a name cannot be stored.
    """
    check_state(state)
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_names: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        tensor = value.detach()
        first_name = first_names.setdefault(_view_of_memory(tensor, name), name)
        if first_name == name:
            stored[name] = tensor
        else:
            aliases[name] = first_name
    data = save(_on_cpu(stored))
    shard = Shard.of(shard_name(1, 1), data)
    tensors = tuple(
        TensorEntry(
            name=name,
            dtype=dtype,
            shape=shape,
            parts=(Part(shard=0, offsets=(0,) * len(shape), shape=shape, start=start, end=end),),
        )
        for name, (dtype, shape, start, end) in sorted(_read_header(data).items())
    )
    return EncodedSnapshot(shards=((shard, data),), tensors=tensors, aliases=aliases)


def decode_exact(manifest: Manifest, shard_bytes: Sequence[bytes]) -> dict[str, Tensor]:
    """Decode the tensors of a snapshot.

    It checks that the files hold what the manifest says, not their digests: `verify_shard` the very
    same bytes before.

    Args:
        manifest: What was published.
        shard_bytes: The content of its shards, in order.

    Returns:
        CPU tensors by name, in memory of their own; all names of a tied tensor give one object.

    Raises:
        SnapshotFormatError: If the codec is unknown, or the files and the manifest disagree.
        SnapshotIntegrityError: If a file has another size.
    """
    try:
        check_codec(manifest.codec)
    except ValueError as e:
        raise _malformed(manifest, f"{e} Upgrade codistill here.") from e
    if len(shard_bytes) != len(manifest.shards):
        raise ValueError(f"shard_bytes must be {len(manifest.shards)} files, got {len(shard_bytes)}.")
    files = [_decode_shard(manifest, index, data) for index, data in enumerate(shard_bytes)]
    state = {entry.name: _assemble(manifest, entry, files) for entry in manifest.tensors}
    return state | {alias: state[name] for alias, name in manifest.aliases.items()}


def verify_chunk(
    shard: Shard, index: int, data: bytes | memoryview, *, peer: str | None = None, key: str | None = None
) -> None:
    """Check one chunk of a shard's file against its digest.

    Args:
        shard: The shard, of a manifest that is itself verified.
        index: Which chunk, from 0; it begins at byte ``index * CHUNK_BYTES``.
        data: The whole chunk.
        peer: Whose it is, for the message.
        key: Where it was read, for the message.

    Raises:
        SnapshotIntegrityError: If these are not the bytes that were published.
    """
    if hashlib.sha256(data).hexdigest() != shard.chunk_sha256[index]:
        raise SnapshotIntegrityError(
            f"Shard {key or shard.name!r} of peer {peer!r} is not what was published: chunk {index} at byte "
            f"{index * CHUNK_BYTES} has another digest. It was altered or only partly written; the peer's "
            "next snapshot replaces it.",
            peer=peer,
            key=key,
        )


def verify_shard(shard: Shard, data: bytes, *, peer: str | None = None, key: str | None = None) -> None:
    """Check a shard's file against its size and all its digests.

    Args:
        shard: The shard, of a manifest that is itself verified.
        data: The whole file.
        peer: Whose it is, for the message.
        key: Where it was read, for the message.

    Raises:
        SnapshotIntegrityError: If these are not the bytes that were published.
    """
    _check_size(shard, data, peer=peer, key=key)
    view = memoryview(data)
    for index in range(len(shard.chunk_sha256)):
        start = index * CHUNK_BYTES
        verify_chunk(shard, index, view[start : start + CHUNK_BYTES], peer=peer, key=key)


def _check_size(shard: Shard, data: bytes, *, peer: str | None, key: str | None) -> None:
    if len(data) != shard.size_bytes:
        raise SnapshotIntegrityError(
            f"Shard {key or shard.name!r} of peer {peer!r} must have {shard.size_bytes} bytes, got "
            f"{len(data)}. It was truncated or is still being copied; the peer's next snapshot replaces it.",
            peer=peer,
            key=key,
        )


def _check(name: str, value: object) -> None:
    kind = _unsupported_kind(value)
    if kind is not None:
        raise TypeError(
            f"state[{name!r}] must be a dense tensor of a dtype that safetensors keeps, got {kind}. "
            "Convert it, or leave it out of the state (register_buffer(..., persistent=False))."
        )


def _unsupported_kind(value: object) -> str | None:
    if not isinstance(value, Tensor):
        return type(value).__name__
    if is_lazy(value):
        return "a lazy parameter that has no shape yet"
    if value.is_nested:
        return "a nested tensor"
    if value.layout != torch.strided:
        return f"a tensor of layout {value.layout}"
    # A subclass may keep its values elsewhere (DTensor), so that its memory says nothing.
    if type(value.detach()) is not Tensor:
        return f"a {type(value).__name__}"
    if value.is_meta:
        return "a meta tensor, which has no values"
    if value.dtype not in _NAMES:
        return f"dtype {value.dtype}"
    return None


def _view_of_memory(tensor: Tensor, name: str) -> tuple[Any, ...]:
    """Return what two names share exactly if they are one tensor."""
    if tensor.numel() == 0:
        return ("without memory", name)
    return (
        tensor.device,
        tensor.untyped_storage().data_ptr(),
        tensor.storage_offset(),
        tensor.shape,
        tensor.stride(),
        tensor.dtype,
        tensor.is_neg(),
    )


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous CPU tensors that share no memory with one another, as safetensors demands."""
    used: set[int] = set()
    result = {}
    for name, tensor in state.items():
        copy = tensor.cpu().resolve_neg().contiguous()
        memory = copy.untyped_storage().data_ptr()
        result[name] = copy.clone() if memory in used else copy
        used.add(memory)
    return result


def _read_header(data: bytes) -> dict[str, _HeaderEntry]:
    """Return dtype, shape, first byte and end of every tensor in a safetensors file.

    Raises:
        ValueError: If it does not begin with one.
    """
    size = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:size])
        header.pop("__metadata__", None)
        return {name: _read_header_entry(entry, size) for name, entry in header.items()}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as e:
        raise ValueError("it must begin with the header of a safetensors file, got something else.") from e


def _read_header_entry(entry: Any, header_bytes: int) -> _HeaderEntry:
    start, end = entry["data_offsets"]
    return str(entry["dtype"]), tuple(entry["shape"]), header_bytes + start, header_bytes + end


def _decode_shard(manifest: Manifest, index: int, data: bytes) -> dict[str, Tensor]:
    shard = manifest.shards[index]
    _check_size(shard, data, peer=manifest.peer, key=manifest.key)
    expected = {
        entry.name: (entry.dtype, part.shape, part.start, part.end)
        for entry in manifest.tensors
        for part in entry.parts
        if part.shard == index
    }
    try:
        found = _read_header(data)
    except ValueError as e:
        raise _malformed(manifest, f"{shard.name}: {e}") from e
    if found != expected:
        name = min(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise _malformed(
            manifest,
            f"tensor {name!a:.200} in {shard.name} must be {_describe(expected.get(name))} by the manifest, "
            f"got {_describe(found.get(name))}.",
        )
    try:
        return load(data)
    except (SafetensorError, ValueError, RuntimeError) as e:
        raise _malformed(manifest, f"{shard.name} cannot be read: {e}.") from e


def _assemble(manifest: Manifest, entry: TensorEntry, files: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return a whole tensor from its parts."""
    if len(entry.parts) == 1:
        return files[entry.parts[0].shard][entry.name]
    whole = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    is_filled = torch.zeros(entry.shape, dtype=torch.bool)
    for part in entry.parts:
        box = tuple(
            slice(offset, offset + size) for offset, size in zip(part.offsets, part.shape, strict=True)
        )
        # The manifest has counted the elements: without overlap there is no gap either.
        if is_filled[box].any():
            raise _malformed(manifest, f"parts of tensor {entry.name!a:.200} must not overlap.")
        is_filled[box] = True
        whole[box] = files[part.shard][entry.name]
    return whole


def _describe(entry: _HeaderEntry | None) -> str:
    return "absent" if entry is None else ascii(reprlib.repr(entry))[1:-1]


def _malformed(manifest: Manifest, what: str) -> SnapshotFormatError:
    return SnapshotFormatError(
        f"Snapshot {manifest.incarnation}-{manifest.sequence} of peer {manifest.peer!r} cannot be decoded: "
        f"{what}",
        peer=manifest.peer,
        step=manifest.step,
        key=manifest.key,
    )
