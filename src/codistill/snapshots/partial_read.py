"""Reading boxes of a snapshot's tensors: which chunks of which shards are needed, and what they hold."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from codistill.errors import SnapshotFormatError
from codistill.fragments import Box
from codistill.snapshots.manifest import Manifest
from codistill.snapshots.precision import BLOCK_ELEMENTS, convert, dequantise
from codistill.snapshots.shards import CHUNK_BYTES
from codistill.snapshots.tensors import DTYPES, Part, TensorEntry


@final
class PartialRead:
    """Puts together boxes of tensors from the chunks of a snapshot's files that hold them.

    Chunks are what digests are of, so that whoever reads a part can verify what it reads. Beside the boxes,
    it takes the memory that these have in the files.
    """

    def __init__(self, manifest: Manifest, boxes: Mapping[str, Box], *, is_pinned: bool = False) -> None:
        """Find out what is needed.

        Args:
            manifest: The snapshot.
            boxes: What to read of each tensor, by name; aliases are names too.
            is_pinned: Whether the values go on to a GPU.

        Raises:
            SnapshotFormatError: If a box is not in the snapshot, or its parts overlap.
        """
        entries = {entry.name: entry for entry in manifest.tensors}
        self._manifest = manifest
        self._pieces: dict[tuple[str, Box], list[_Piece]] = {}
        self._wanted = {name: (entries[manifest.aliases.get(name, name)], box) for name, box in boxes.items()}
        self._is_pinned = is_pinned
        self._spans: dict[int, list[_Span]] = defaultdict(list)
        for entry, box in self._wanted.values():
            # All names of a tied tensor are read once.
            if (entry.name, box) not in self._pieces:
                self._pieces[entry.name, box] = self._find(entry, box)

    @property
    def chunks(self) -> Iterator[tuple[int, int]]:
        """(index of the shard, index of the chunk) of everything that must be read, in order."""
        for shard in sorted(self._spans):
            needed = {
                chunk
                for span in self._spans[shard]
                for chunk in range(span.start // CHUNK_BYTES, -(-span.end // CHUNK_BYTES))
            }
            yield from ((shard, chunk) for chunk in sorted(needed))

    def take(self, shard: int, chunk: int, content: memoryview) -> None:
        """Keep what is needed of a chunk.

        Args:
            shard: Index of the shard.
            chunk: Index of the chunk.
            content: All of the chunk, verified.
        """
        start = chunk * CHUNK_BYTES
        for span in self._spans[shard]:
            first, last = max(span.start, start), min(span.end, start + len(content))
            if first < last:
                target = span.content.numpy().data
                target[first - span.start : last - span.start] = content[first - start : last - start]

    def decode(self) -> dict[str, Tensor]:
        """Return the boxes by name, once all chunks have been taken; names of a tied one share an object."""
        decoded = {key: self._put_together(*key) for key in self._pieces}
        return {name: decoded[entry.name, box] for name, (entry, box) in self._wanted.items()}

    def _find(self, entry: TensorEntry, box: Box) -> "list[_Piece]":
        pieces, covered = [], 0
        for part in entry.parts:
            holds = Box(part.offsets, part.shape)
            overlap = holds.intersect(box)
            if overlap is None:
                continue
            first, last = overlap.span_in(holds)
            scales = None
            if part.scales is not None:
                # A block has one scale, and is read whole.
                first -= first % BLOCK_ELEMENTS
                last = min(last + -last % BLOCK_ELEMENTS, part.elements)
                blocks = slice(first // BLOCK_ELEMENTS, -(-last // BLOCK_ELEMENTS))
                scales = self._span(part.shard, part.scales[0], blocks.start, blocks.stop, torch.float32)
            values = self._span(part.shard, part.start, first, last, DTYPES[entry.stored_dtype])
            pieces.append(_Piece(entry, part, holds, overlap, first, values, scales))
            covered += overlap.elements
        if covered != box.elements:
            raise SnapshotFormatError(
                f"Snapshot {self._manifest.incarnation}-{self._manifest.sequence} of peer "
                f"{self._manifest.peer!r} cannot be decoded: the parts of {entry.name!a:.200} must hold each "
                f"element once, got {covered} of {box.elements} in a box of it.",
                peer=self._manifest.peer,
                step=self._manifest.step,
                key=self._manifest.key,
            )
        return pieces

    def _span(self, shard: int, start: int, first: int, last: int, dtype: torch.dtype) -> "_Span":
        size = (last - first) * dtype.itemsize
        if self._is_pinned:
            content = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        else:
            content = torch.from_numpy(np.empty(size, dtype=np.uint8))
        begin = start + first * dtype.itemsize
        span = _Span(begin, begin + size, content, dtype)
        self._spans[shard].append(span)
        return span

    def _put_together(self, name: str, box: Box) -> Tensor:
        pieces = self._pieces[name, box]
        if len(pieces) == 1:
            return pieces[0].decode()
        entry = next(entry for entry, _ in self._wanted.values() if entry.name == name)
        whole = torch.empty(box.shape, dtype=DTYPES[entry.dtype], pin_memory=self._is_pinned)
        is_filled = torch.zeros(box.shape, dtype=torch.bool)
        for piece in pieces:
            index = piece.overlap.within(box)
            is_filled[index] = True
            whole[index] = piece.decode()
        # As many elements as the box has, and each of them: no two parts overlap.
        if not is_filled.all():
            raise SnapshotFormatError(
                f"Snapshot {self._manifest.incarnation}-{self._manifest.sequence} of peer "
                f"{self._manifest.peer!r} cannot be decoded: parts of {name!a:.200} must not overlap.",
                peer=self._manifest.peer,
                step=self._manifest.step,
                key=self._manifest.key,
            )
        return whole


@dataclass(frozen=True, slots=True, eq=False)
class _Span:
    """Consecutive bytes of a file."""

    start: int
    end: int
    content: Tensor
    dtype: torch.dtype

    def values(self) -> Tensor:
        # It has memory of its own, which is aligned.
        return self.content.view(self.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """What one part of a tensor contributes to a box."""

    entry: TensorEntry
    part: Part
    holds: Box
    overlap: Box
    first: int
    values: _Span
    scales: _Span | None

    def decode(self) -> Tensor:
        stored = self.values.values()
        if self.entry.stored is None:
            flat = stored
        else:
            flat = torch.empty(len(stored), dtype=DTYPES[self.entry.dtype])
            if self.scales is None:
                convert(stored, out=flat)
            else:
                dequantise(stored, self.scales.values(), out=flat)
        offset = self.overlap.span_in(self.holds)[0] - self.first
        return flat.as_strided(self.overlap.shape, self.holds.strides, offset)
