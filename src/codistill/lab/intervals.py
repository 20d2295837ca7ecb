"""How far a mean over seeds may be off, also one over pairs of seeds."""

import math
from collections.abc import Sequence
from typing import Any

from codistill.extras import require

CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the two-sided 95% t interval of the mean, or two None if there is none.

    Args:
        values: One independent value a seed.

    Example:
        >>> low, high = interval([1.0, 2.0, 3.0])
        >>> round(low, 4), round(high, 4)
        (-0.4841, 4.4841)
    """
    count = len(values)
    if count < 2 or not all(math.isfinite(value) for value in values):
        return None, None
    mean = sum(values) / count
    sd = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = reach(sd, count)
    return mean - half, mean + half


def reach(sd: float, count: int) -> float:
    """Return half the width of the two-sided 95% t interval of a mean.

    Args:
        sd: Standard deviation of the values.
        count: How many there are, >= 2.
    """
    stats: Any = require("scipy.stats", "lab")
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * sd / math.sqrt(count)


def pair_pseudo_values(pairs: Sequence[Sequence[float]]) -> list[float]:
    """Return the jackknife pseudo-values of a mean over pairs of seeds, one a seed.

    Churn is a mean over pairs, and pairs that share a seed are not independent: a t interval over
    pairs, or over each seed's mean with the others, would be too narrow. The pseudo-values
    ``n U - (n - 1) U without seed i`` may be treated as independent (Arvesen 1969, "Jackknifing
    U-statistics"); their mean is the mean over pairs itself.

    Args:
        pairs: Symmetric [n, n], value of every pair of seeds; the diagonal is ignored. The difference of
            two arms' matrices over the same seeds makes the comparison a paired one.

    Returns:
        n values; empty if n < 3, as leaving one out must leave a pair.

    Example:
        >>> pair_pseudo_values([[0, 1, 2], [1, 0, 3], [2, 3, 0]])
        [0.0, 2.0, 4.0]
    """
    count = len(pairs)
    if count < 3:
        return []
    with_seed = [sum(row[j] for j in range(count) if j != i) for i, row in enumerate(pairs)]
    total = sum(with_seed) / 2
    mean = total / math.comb(count, 2)
    return [count * mean - (count - 1) * (total - own) / math.comb(count - 1, 2) for own in with_seed]
