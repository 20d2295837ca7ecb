"""Host memory in which a state waits to be published."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from codistill.fragments import Box, Fragment
from codistill.snapshots.header import write_header
from codistill.snapshots.keys import shard_name
from codistill.snapshots.precision import check_codec, count_blocks, quantise, stored_dtype
from codistill.snapshots.shards import Shard, content_digest
from codistill.snapshots.tensors import (
    DTYPES,
    SCALES_SUFFIX,
    Part,
    TensorEntry,
    check_scales_name,
    check_tensor_name,
)
from codistill.snapshots.written_shard import WrittenPart, WrittenShard, merge

_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
# Name, dtype, box, whole shape and the first of the tied names of every tensor: all a layout depends on.
_Signature = tuple[tuple[str, torch.dtype, Box, tuple[int, ...], str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSnapshot:
    """A state as the files that are published, and how to find its tensors in them."""

    shards: tuple[tuple[Shard, bytes | memoryview], ...]
    """Each file with its content."""
    tensors: tuple[TensorEntry, ...]
    """The stored tensors."""
    aliases: Mapping[str, str]
    """Further names of tied tensors, to the name they are stored under."""

    @property
    def content_digest(self) -> str:
        """One digest of all tensors, the same as the manifest's."""
        return content_digest([shard for shard, _ in self.shards])


@final
class Staging:
    """Host memory of one snapshot, laid out as the very file that is published.

    `fill` belongs to the training thread, `encode` to whoever publishes: what `fill` has copied is out of
    reach of the next optimizer step. Tied tensors (the same memory seen the same way under two names) are
    stored once. Equal states give equal bytes, whatever their devices and strides.

    With codec "int8" the values to be quantised wait beside the file, in memory of their own size.

    Where ranks divide a model among them, each has one for its fragments, and writes its own shard.

    **Ranks**: each that writes.
    **Blocks**: `fill`, for one copy of the state, or on a CUDA device until that is queued; `encode`, until
    it is done, and for the arithmetic and the digests.
    **On failure**: after a `fill` that failed, `encode` refuses until one succeeds.

    Example:
        >>> staging = Staging({"weight": torch.ones(2)})
        >>> staging.fill({"weight": torch.ones(2)})
        >>> encoded = staging.encode()
        >>> (shard, content), = encoded.shards
        >>> len(content) == shard.size_bytes == staging.size_bytes
        True
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor | Fragment],
        *,
        codec: str = "exact",
        index: int = 1,
        count: int = 1,
    ) -> None:
        """Lay out the file and take memory for it, pinned if a tensor is on a CUDA device.

        Args:
            tensors: Tensors by name, as of ``state_dict()``, or fragments of them; nothing is copied yet.
            codec: One of `codistill.snapshots.codec.CODECS`.
            index: Which of the snapshot's shards the file is, from 1.
            count: How many shards the snapshot has.

        Raises:
            TypeError: If a value is not a plain dense tensor of a dtype that safetensors keeps.
            ValueError: If there is no such codec or no tensor, or a name cannot be stored.
        """
        self._codec = check_codec(codec)
        self._name, self._index = shard_name(index, count), index - 1
        fragments = _checked_fragments(tensors, codec)
        self._layout = _Layout(_sign(fragments), codec=codec, is_pinned=_is_on_cuda(fragments))
        self._is_filled = False
        self._copied: list[torch.cuda.Event] = []

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self._layout.file.numel()

    def fill(self, tensors: Mapping[str, Tensor | Fragment]) -> None:
        """Copy the state, so that it may change afterwards.

        What `encode` gave before is overwritten. Where names, shapes, dtypes or ties are no longer those
        of before (weights may be tied or converted between two publishes), the file is laid out anew.

        Args:
            tensors: Tensors by name, or fragments of them; read only. Those on a CUDA device are copied in
                its current stream.

        Raises:
            TypeError: If a value is not a plain dense tensor of a dtype that safetensors keeps.
            ValueError: If there is no tensor, or a name cannot be stored.
        """
        self._is_filled = False
        fragments = _checked_fragments(tensors, self._codec)
        signature, is_pinned = _sign(fragments), _is_on_cuda(fragments)
        if (signature, is_pinned) != (self._layout.signature, self._layout.is_pinned):
            self._layout = _Layout(signature, codec=self._codec, is_pinned=is_pinned)
        for name, target in self._layout.targets.items():
            values = fragments[name].values
            target.copy_(values.detach(), non_blocking=values.is_cuda)
        devices = {fragment.values.device for fragment in fragments.values() if fragment.values.is_cuda}
        self._copied = [_record(device) for device in devices]
        self._is_filled = True

    def encode(self) -> EncodedSnapshot:
        """Return the files of what was filled in last, which must be whole.

        Runs on any thread, and on that one alone: torch's own threads are left to the training.

        Returns:
            The files' contents are read-only views of this memory, valid until the next `fill`.

        Raises:
            RuntimeError: If nothing was filled in, or the last `fill` failed.
            ValueError: If what was filled in are fragments.
        """
        written, content = self.encode_shard()
        tensors, aliases = merge([written])
        return EncodedSnapshot(shards=((written.shard, content),), tensors=tensors, aliases=aliases)

    def encode_shard(self) -> tuple[WrittenShard, memoryview]:
        """Return the file of what was filled in last, and what lies in it.

        Runs on any thread, and on that one alone, as `encode`.

        Returns:
            The content is a read-only view of this memory, valid until the next `fill`.

        Raises:
            RuntimeError: If nothing was filled in, or the last `fill` failed.
        """
        if not self._is_filled:
            raise RuntimeError(
                "fill must succeed before encode, and it has not. Call it with the state first."
            )
        for event in self._copied:
            event.synchronize()
        layout = self._layout
        for values, out, scales in layout.quantised:
            quantise(values, out=out, scales=scales)
        content = layout.file.numpy().data.toreadonly()
        shard = Shard.of(self._name, content)
        return WrittenShard(shard=shard, parts=layout.parts(self._index), aliases=layout.aliases), content


def check_state(state: Mapping[str, object], codec: str = "exact") -> None:
    """Refuse a state that could not be encoded, without encoding it.

    Args:
        state: Tensors by name.
        codec: The codec it is to be encoded with.

    Raises:
        TypeError: If a value is not a plain dense tensor of a dtype that safetensors keeps.
        ValueError: If there is no tensor, or a name cannot be stored.
    """
    if not state:
        raise ValueError("state must hold at least one tensor, got none. There is nothing to publish.")
    for name, value in state.items():
        check_tensor_name(name)
        if codec == "int8":
            check_scales_name(name)
        kind = _unsupported_kind(value)
        if kind is not None:
            raise TypeError(
                f"state[{name!r}] must be a dense tensor of a dtype that safetensors keeps, got {kind}. "
                "Convert it, or leave it out of the state (register_buffer(..., persistent=False))."
            )


@final
class _Layout:
    """Memory for the states of one signature, and where in it their tensors go."""

    def __init__(self, signature: _Signature, *, codec: str, is_pinned: bool) -> None:
        self.signature = signature
        self.is_pinned = is_pinned
        self.aliases = {name: first for name, _, _, _, first in signature if name != first}
        self._dtypes = dtypes = {
            name: _NAMES[dtype] for name, dtype, _, _, first in signature if name == first
        }
        self._boxes = boxes = {name: box for name, _, box, _, first in signature if name == first}
        self._wholes = wholes = {name: whole for name, _, _, whole, first in signature if name == first}
        # By the whole tensor, so that ranks that divide it agree.
        self._stored = stored = {
            name: stored_dtype(codec, dtypes[name], math.prod(wholes[name])) for name in dtypes
        }
        in_file = {name: (stored[name], boxes[name].shape) for name in dtypes}
        quantised = [name for name in dtypes if stored[name] == "I8" and dtypes[name] != "I8"]
        for name in quantised:
            in_file[name + SCALES_SUFFIX] = ("F32", (count_blocks(boxes[name].elements),))
        header, self._entries = write_header(in_file)
        self.file = torch.empty(
            max(entry.end for entry in self._entries.values()), dtype=torch.uint8, pin_memory=is_pinned
        )
        self.file[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        views = {
            name: self.file[entry.start : entry.end].view(DTYPES[entry.dtype]).view(entry.shape)
            for name, entry in self._entries.items()
        }
        self._waiting = waiting = {
            name: torch.empty(boxes[name].shape, dtype=DTYPES[dtypes[name]], pin_memory=is_pinned)
            for name in quantised
        }
        self.targets = {name: waiting.get(name, views[name]) for name in dtypes}
        self.quantised = [
            (waiting[name].view(-1), views[name].view(-1), views[name + SCALES_SUFFIX]) for name in quantised
        ]

    def parts(self, shard: int) -> tuple[WrittenPart, ...]:
        """Return what lies in the file, if that is the shard of this index."""
        return tuple(
            WrittenPart(
                name=name,
                dtype=dtype,
                shape=self._wholes[name],
                stored=None if self._stored[name] == dtype else self._stored[name],
                part=self._part(name, shard),
            )
            for name, dtype in sorted(self._dtypes.items())
        )

    def _part(self, name: str, shard: int) -> Part:
        values, box = self._entries[name], self._boxes[name]
        scales = self._entries[name + SCALES_SUFFIX] if name in self._waiting else None
        return Part(
            shard=shard,
            offsets=box.offsets,
            shape=box.shape,
            start=values.start,
            end=values.end,
            scales=None if scales is None else (scales.start, scales.end),
        )


def _checked_fragments(tensors: Mapping[str, Tensor | Fragment], codec: str) -> dict[str, Fragment]:
    values = {name: value.values if isinstance(value, Fragment) else value for name, value in tensors.items()}
    check_state(values, codec)
    return {
        name: value if isinstance(value, Fragment) else Fragment.whole(value)
        for name, value in tensors.items()
    }


def _sign(fragments: Mapping[str, Fragment]) -> _Signature:
    first_names: dict[tuple[Any, ...], str] = {}
    return tuple(
        (
            name,
            fragment.values.dtype,
            fragment.box,
            fragment.shape,
            first_names.setdefault((*_view_of_memory(fragment.values, name), fragment.shape), name),
        )
        for name, fragment in fragments.items()
    )


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


def _is_on_cuda(fragments: Mapping[str, Fragment]) -> bool:
    return any(fragment.values.is_cuda for fragment in fragments.values())


def _record(device: torch.device) -> torch.cuda.Event:
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


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
