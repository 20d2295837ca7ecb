"""States to files and back, and whether their values are numbers."""

import reprlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, cast

import numpy as np
import torch
from torch import Tensor

from codistill.errors import SnapshotFormatError
from codistill.snapshots.header import FileEntry, read_header
from codistill.snapshots.manifest import Manifest, Part, TensorEntry
from codistill.snapshots.precision import (
    CODECS,
    check_codec,
    check_readable,
    convert,
    count_blocks,
    dequantise,
)
from codistill.snapshots.shards import check_size, verify_chunk, verify_shard
from codistill.snapshots.staging import EncodedSnapshot, Staging, check_state
from codistill.snapshots.tensors import DTYPES, SCALES_SUFFIX

__all__ = [
    "CODECS",
    "EncodedSnapshot",
    "check_codec",
    "check_state",
    "decode",
    "encode",
    "first_nan",
    "verify_chunk",
    "verify_shard",
]

# Integers of a floating dtype's size, and the largest of them that is no NaN once its sign is taken off.
_LARGEST_NUMBERS: Final = {
    torch.float64: (torch.int64, 0x7FF0_0000_0000_0000),
    torch.float32: (torch.int32, 0x7F80_0000),
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float8_e4m3fn: (torch.int8, 0x7E),
    torch.float8_e5m2: (torch.int8, 0x7C),
}
# As many elements as stay in a processor's cache.
_PIECE_ELEMENTS: Final = 2**15


def encode(state: Mapping[str, Tensor], codec: str = "exact") -> EncodedSnapshot:
    """Encode a state at once; whoever publishes again and again keeps a `Staging`.

    Args:
        state: Tensors by name, as of ``state_dict()``; read only. What is on another device is
            copied to the CPU, which waits for that device.
        codec: One of `CODECS`.

    Returns:
        The files, in memory of their own.

    Raises:
        TypeError: If a value is not a plain dense tensor of a dtype that safetensors keeps.
        ValueError: If there is no such codec or no tensor, or a name cannot be stored.

    Example:
        >>> encoded = encode({"weight": torch.ones(64, 64)}, "bfloat16")
        >>> encoded.tensors[0].dtype, encoded.tensors[0].stored
        ('F32', 'BF16')
    """
    staging = Staging(state, codec=codec)
    staging.fill(state)
    return staging.encode()


def decode(manifest: Manifest, contents: Sequence[bytes | memoryview | Tensor]) -> dict[str, Tensor]:
    """Decode the tensors of a snapshot, each to the dtype that its publisher's has.

    It checks that the files hold what the manifest says, not their digests: `verify_shard` the very
    same bytes before. Whatever the manifest says, it allocates no more than a small multiple of the files'
    bytes and of `Manifest.decoded_bytes`.

    Args:
        manifest: What was published.
        contents: The content of its shards, in order; a tensor is 1-D, uint8, on the CPU.

    Returns:
        CPU tensors by name; all names of a tied tensor give one object. Where nothing has to be
        converted they are views of `contents`, unless those are read-only (as bytes are).

    Raises:
        SnapshotFormatError: If the codec is unknown, or the files and the manifest disagree.
        SnapshotIntegrityError: If a file has another size.
        TypeError: If a content is no bytes.
    """
    try:
        check_readable(manifest.codec)
    except ValueError as e:
        raise _malformed(manifest, f"{e}") from e
    if len(contents) != len(manifest.shards):
        raise ValueError(f"contents must be {len(manifest.shards)} files, got {len(contents)}.")
    views = [_bytes_of(content) for content in contents]
    _check_files(manifest, views)
    files = [
        content if isinstance(content, Tensor) else _tensor_of(view)
        for content, view in zip(contents, views, strict=True)
    ]
    state = {entry.name: _assemble(manifest, entry, files) for entry in manifest.tensors}
    return state | {alias: state[name] for alias, name in manifest.aliases.items()}


def first_nan(state: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first floating tensor that holds NaN, None if there is none.

    Runs on any thread, and on that one alone: torch's own threads are left to the training.

    Args:
        state: Tensors by name; read only. What is on another device is copied to the CPU.

    Example:
        >>> first_nan({"steps": torch.tensor(3), "mean": torch.tensor([0.0, torch.nan])})
        'mean'
    """
    return next((name for name, tensor in state.items() if _has_nan(tensor)), None)


def _has_nan(tensor: Tensor) -> bool:
    if tensor.dtype not in _LARGEST_NUMBERS:
        return False
    integer, largest = _LARGEST_NUMBERS[tensor.dtype]
    bits = tensor.detach().cpu().resolve_neg().view(integer).numpy()
    without_sign = np.iinfo(bits.dtype).max
    pieces = np.nditer(
        bits, flags=["external_loop", "buffered", "zerosize_ok"], order="K", buffersize=_PIECE_ELEMENTS
    )
    # A single operand comes without a tuple around it.
    return any((cast("np.ndarray", piece) & without_sign).max(initial=0) > largest for piece in pieces)


def _bytes_of(content: bytes | memoryview | Tensor) -> memoryview:
    if not isinstance(content, Tensor):
        return memoryview(content).cast("B")
    if content.dtype != torch.uint8 or content.dim() != 1 or content.device.type != "cpu":
        raise TypeError(
            "contents must be bytes or 1-D uint8 tensors on the CPU, "
            f"got {content.dtype} of shape {list(content.shape)} on {content.device}."
        )
    return content.numpy().data.cast("B")


def _tensor_of(view: memoryview) -> Tensor:
    # Torch has no read-only tensors: writing to one over bytes would change the bytes, or crash.
    return torch.frombuffer(bytearray(view) if view.readonly else view, dtype=torch.uint8)


def _check_files(manifest: Manifest, views: Sequence[memoryview]) -> None:
    """Check that every file is a safetensors file of exactly the tensors that the manifest names."""
    expected: dict[int, dict[str, FileEntry]] = defaultdict(dict)
    for entry in manifest.tensors:
        for part in entry.parts:
            expected[part.shard] |= _file_entries(entry, part)
    for index, (shard, view) in enumerate(zip(manifest.shards, views, strict=True)):
        check_size(shard, view, peer=manifest.peer, key=manifest.key)
        try:
            header_bytes, found = read_header(view)
        except ValueError as e:
            raise _malformed(manifest, f"{shard.name}: {e}") from e
        if found != expected[index]:
            raise _malformed(manifest, _first_difference(expected[index], found, shard.name))
        # The manifest has checked that they do not overlap: together with this, they leave no gap.
        used_bytes = sum(entry.end - entry.start for entry in expected[index].values())
        first = min((entry.start for entry in expected[index].values()), default=header_bytes)
        if first < header_bytes or header_bytes + used_bytes != shard.size_bytes:
            raise _malformed(
                manifest,
                f"{shard.name} must be a header and then its tensors without a gap, "
                f"got {header_bytes} bytes, {used_bytes} from byte {first} on, {shard.size_bytes} in all.",
            )


def _file_entries(entry: TensorEntry, part: Part) -> dict[str, FileEntry]:
    entries = {
        entry.name: FileEntry(dtype=entry.stored_dtype, shape=part.shape, start=part.start, end=part.end)
    }
    if part.scales is not None:
        start, end = part.scales
        entries[entry.name + SCALES_SUFFIX] = FileEntry(
            dtype="F32", shape=(count_blocks(part.elements),), start=start, end=end
        )
    return entries


def _first_difference(
    expected: Mapping[str, FileEntry], found: Mapping[str, FileEntry], shard_name: str
) -> str:
    name = min(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return (
        f"tensor {name!a:.200} in {shard_name} must be {_describe(expected.get(name))} by the manifest, "
        f"got {_describe(found.get(name))}."
    )


def _describe(entry: FileEntry | None) -> str:
    return "absent" if entry is None else ascii(reprlib.repr(str(entry)))[2:-2]


def _assemble(manifest: Manifest, entry: TensorEntry, files: Sequence[Tensor]) -> Tensor:
    """Return a whole tensor from its parts."""
    if len(entry.parts) == 1:
        return _decode_part(entry, entry.parts[0], files)
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
        whole[box] = _decode_part(entry, part, files)
    return whole


def _decode_part(entry: TensorEntry, part: Part, files: Sequence[Tensor]) -> Tensor:
    file = files[part.shard]
    stored = _view(file, part.start, part.end, DTYPES[entry.stored_dtype])
    if entry.stored is None:
        return stored.view(part.shape)
    values = torch.empty(part.shape, dtype=DTYPES[entry.dtype])
    if part.scales is None:
        convert(stored, out=values.view(-1))
    else:
        dequantise(stored, _view(file, *part.scales, torch.float32), out=values.view(-1))
    return values


def _view(file: Tensor, start: int, end: int, dtype: torch.dtype) -> Tensor:
    content = file[start:end]
    # Other writers need not align their tensors, and torch demands it, of the offset as of the address.
    is_aligned = (content.storage_offset() | content.data_ptr()) % dtype.itemsize == 0
    return (content if is_aligned else content.clone()).view(dtype)


def _malformed(manifest: Manifest, what: str) -> SnapshotFormatError:
    return SnapshotFormatError(
        f"Snapshot {manifest.incarnation}-{manifest.sequence} of peer {manifest.peer!r} cannot be decoded: "
        f"{what}",
        peer=manifest.peer,
        step=manifest.step,
        key=manifest.key,
    )
