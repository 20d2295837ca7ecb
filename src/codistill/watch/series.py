"""Numbers in the order in which they came, in a fixed room."""

from collections.abc import Sequence
from typing import Final, final

_ROOM: Final = 240


@final
class Series:
    """Remembers all of a course, coarser the longer it gets: at most 240 means over equally many numbers.

    Example:
        >>> series = Series()
        >>> for number in (1.0, 2.0, 4.0):
        ...     series.append(number)
        >>> series.means(2)
        (1.5, 4.0)
    """

    def __init__(self) -> None:
        self._means: list[float] = []
        self._numbers_a_mean = 1
        self._waiting: list[float] = []

    def append(self, number: float) -> None:
        """Add a number, finite."""
        self._waiting.append(number)
        if len(self._waiting) < self._numbers_a_mean:
            return
        self._means.append(_mean(self._waiting))
        self._waiting.clear()
        if len(self._means) == _ROOM:
            self._means = merge(self._means, 2)
            self._numbers_a_mean *= 2

    def means(self, most: int) -> tuple[float, ...]:
        """Return the whole course.

        Args:
            most: As at most so many numbers, >= 1.

        Returns:
            Means of neighbours, each of equally many, but for the last.
        """
        means = [*self._means, _mean(self._waiting)] if self._waiting else self._means
        return tuple(merge(means, -(-len(means) // most))) if means else ()


def merge(numbers: Sequence[float], count: int) -> list[float]:
    """Return the means of neighbours.

    Args:
        numbers: Finite.
        count: Of how many each, >= 1; the last may be of fewer.

    Example:
        >>> merge([1.0, 3.0, 8.0], 2)
        [2.0, 8.0]
    """
    return [_mean(numbers[start : start + count]) for start in range(0, len(numbers), count)]


def _mean(numbers: Sequence[float]) -> float:
    # The sum of finite numbers may not be finite, nor that of their parts, by rounding.
    mean = sum(number / len(numbers) for number in numbers)
    return max(min(numbers), min(max(numbers), mean))
