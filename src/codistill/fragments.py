"""Fragments: which box of a tensor a rank holds, and where boxes overlap."""

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Box:
    """A rectangular part of a tensor: an interval of indices in every dimension.

    Example:
        >>> rows = Box((2, 0), (3, 4))
        >>> rows.intersect(Box((4, 1), (8, 2)))
        Box(offsets=(4, 1), shape=(1, 2))
    """

    offsets: tuple[int, ...]
    """Where it begins, an index a dimension."""
    shape: tuple[int, ...]
    """Its size, as many dimensions."""

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> "Box":
        """Return the box that is all of a tensor."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def elements(self) -> int:
        """How many elements lie in it."""
        return math.prod(self.shape)

    def intersect(self, other: "Box") -> "Box | None":
        """Return what both have; None if that is no element."""
        starts = tuple(map(max, self.offsets, other.offsets))
        ends = tuple(map(min, self._ends, other._ends))
        shape = tuple(end - start for start, end in zip(starts, ends, strict=True))
        return Box(starts, shape) if all(size > 0 for size in shape) else None

    def within(self, outer: "Box") -> tuple[slice, ...]:
        """Return what selects this box from a tensor that holds ``outer``."""
        starts = tuple(own - other for own, other in zip(self.offsets, outer.offsets, strict=True))
        return tuple(slice(start, start + size) for start, size in zip(starts, self.shape, strict=True))

    def span_in(self, outer: "Box") -> tuple[int, int]:
        """Return where this box begins and ends in ``outer``'s elements in row-major order.

        Returns:
            The first element, and the one after the last; what lies between may belong to others.
        """
        strides = outer.strides
        starts = [index.start for index in self.within(outer)]
        first = sum(start * stride for start, stride in zip(starts, strides, strict=True))
        last = first + sum((size - 1) * stride for size, stride in zip(self.shape, strides, strict=True))
        return first, last + 1

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements between neighbours of every dimension, in row-major order."""
        return tuple(math.prod(self.shape[dim + 1 :]) for dim in range(len(self.shape)))

    @property
    def _ends(self) -> tuple[int, ...]:
        return tuple(map(int.__add__, self.offsets, self.shape))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """What one rank holds of a tensor."""

    values: Tensor
    """A plain tensor of the box's shape."""
    box: Box
    """Which part of the whole it is."""
    shape: tuple[int, ...]
    """Shape of the whole tensor."""

    @classmethod
    def whole(cls, tensor: Tensor) -> "Fragment":
        """Return a tensor that is not divided."""
        shape = tuple(tensor.shape)
        return cls(tensor, Box.whole(shape), shape)

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the tensor."""
        return self.box.shape == self.shape
