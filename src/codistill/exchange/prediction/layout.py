"""Where the tensors of one prediction lie in the bytes that are swapped."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor
from typing_extensions import override


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionLayout:
    """Names, dtypes and shapes of some tensors: what must agree for their bytes to be swapped.

    Example:
        >>> tensors = {"rest": torch.tensor([0.5]), "classes": torch.tensor([[3, 1]], dtype=torch.int32)}
        >>> layout = PredictionLayout.of(tensors, logits=torch.zeros(1, 10))
        >>> layout.nbytes, str(layout)
        (12, 'logits of shape [1, 10] as rest float32 [1], classes int32 [1, 2]')
        >>> layout.unpack(layout.pack(tensors))["classes"]
        tensor([[3, 1]], dtype=torch.int32)
    """

    entries: tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]
    """Name, dtype and shape of each, in the order of their bytes: those of wide elements first, so that
    each begins at a multiple of its own."""
    logits_shape: tuple[int, ...]
    """The shape of what was encoded, which a few classes of it do not tell."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], *, logits: Tensor) -> Self:
        """Return the layout of the tensors that some logits were encoded as."""
        by_width = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
        return cls(
            entries=tuple((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in by_width),
            logits_shape=tuple(logits.shape),
        )

    @property
    def nbytes(self) -> int:
        """How many bytes the tensors take."""
        return sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in self.entries)

    @property
    def digest(self) -> int:
        """A number of 63 bits that stands for the layout."""
        return int.from_bytes(hashlib.blake2b(str(self).encode(), digest_size=8).digest(), "big") >> 1

    def pack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the bytes of contiguous tensors of this layout, flat; a single one's without a copy."""
        pieces = [tensors[name].reshape(-1).view(torch.uint8) for name, _, _ in self.entries]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def unpack(self, packed: Tensor) -> dict[str, Tensor]:
        """Return the tensors that were packed, as views."""
        sizes = [math.prod(shape) * dtype.itemsize for _, dtype, shape in self.entries]
        pieces = torch.split(packed, sizes)
        return {
            name: piece.view(dtype).view(shape)
            for (name, dtype, shape), piece in zip(self.entries, pieces, strict=True)
        }

    @override
    def __str__(self) -> str:
        entries = [
            f"{name} {str(dtype).removeprefix('torch.')} {list(shape)}" for name, dtype, shape in self.entries
        ]
        return f"logits of shape {list(self.logits_shape)} as {', '.join(entries)}"
