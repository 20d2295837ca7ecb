"""A course of numbers as one line of blocks."""

from collections.abc import Sequence
from typing import Final

from codistill.watch.series import merge

_BLOCKS: Final = "".join(chr(0x2581 + height) for height in range(8))


def sparkline(numbers: Sequence[float], *, width: int) -> str:
    """Return a line of blocks, the lowest for the least of the numbers and the highest for the greatest.

    Args:
        numbers: Finite.
        width: At most so many characters, each the mean of as many neighbours.

    Returns:
        At most ``width`` characters; none without numbers.

    Example:
        >>> sparkline([1.0, 2.0], width=2) == chr(0x2581) + chr(0x2588)
        True
    """
    if not numbers:
        return ""
    means = merge(numbers, -(-len(numbers) // width))
    low, high = min(means), max(means)
    top = len(_BLOCKS) - 1
    # Halves, as the difference of two finite numbers may not be finite.
    span = high / 2 - low / 2
    if span == 0.0:
        return _BLOCKS[top // 2] * len(means)
    return "".join(_BLOCKS[round(top * ((mean / 2 - low / 2) / span))] for mean in means)
