"""The link between peers: how fast it is, and what it adds to what is sent."""

import math
from dataclasses import dataclass, replace
from typing import Final, final

from codistill.arguments import check_int
from codistill.planner.units import parse_rate

FRAME_BYTES: Final = 1514
"""The largest frame of Ethernet, as interfaces count it."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A peer's own way to the others or to their store; both directions at once at full rate.

    Raises:
        ValueError: If a field is not as described.

    Example:
        >>> Link.parse("100Mbit").seconds(12_500_000)
        1.0
    """

    bytes_per_s: float
    """Rate in each direction, of what is on the wire."""
    latency_s: float = 0.0
    """Seconds that each round takes besides its bytes: of a collective, a publish or a fetch."""
    frame_bytes: int = FRAME_BYTES
    """The largest frame that the interface counts. One that leaves cutting to the card, as virtual ones do,
    counts up to 65536 bytes as one, and so fewer headers."""

    def __post_init__(self) -> None:
        """Check every field."""
        if not 0 < self.bytes_per_s < math.inf:
            raise ValueError(f"bytes_per_s must be > 0 and finite, got {self.bytes_per_s}. 10Gbit is 1.25e9.")
        if not 0 <= self.latency_s < math.inf:
            raise ValueError(f"latency_s must be >= 0 and finite, got {self.latency_s}. 0 if unknown.")
        hint = "Ethernet's is 1514."
        check_int("frame_bytes", self.frame_bytes, minimum=128, maximum=65550, hint=hint)

    @classmethod
    def parse(cls, rate: str, *, latency_s: float = 0.0) -> "Link":
        """Return the link of a rate such as "10Gbit", "100Mbit/s" or "1GB/s"."""
        return cls(bytes_per_s=parse_rate(rate), latency_s=latency_s)

    def seconds(self, size_bytes: float, *, rounds: int = 1) -> float:
        """Return how long bytes in one direction take.

        Args:
            size_bytes: Bytes on the wire.
            rounds: How many transfers they are, one after the other.
        """
        return rounds * self.latency_s + size_bytes / self.bytes_per_s


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A measured transfer, to calibrate by.

    Raises:
        TypeError, ValueError: If a field is not as described.
    """

    size_bytes: float
    """Bytes on the wire in the direction that has more of them."""
    seconds: float
    """How long it took."""
    rounds: int = 1
    """Transfers one after the other that it was made of."""

    def __post_init__(self) -> None:
        """Check every field."""
        for argument in ("size_bytes", "seconds"):
            if not 0 < getattr(self, argument) < math.inf:
                raise ValueError(
                    f"{argument} must be > 0 and finite, got {getattr(self, argument)}. Measure it."
                )
        check_int("rounds", self.rounds, minimum=1, hint="A publish is one.")


def calibrate(link: Link, *measured: Measurement) -> Link:
    """Return the link as measurements show it, for predicting the seconds of other sizes.

    One size fits the rate, the latency being that of ``link``. Several fit rate and latency such that the
    squares of the relative errors are least, neither of them below 0: to predict sizes that are ten times as
    large, or a tenth, measure two.

    Args:
        link: The link as it is sold; what is not measured stays.
        measured: At least one; of the same kind (collectives, publishes or fetches) as what is to be
            predicted.

    Raises:
        ValueError: If there is none.

    Example:
        >>> link = calibrate(
        ...     Link.parse("100Mbit"),
        ...     Measurement(size_bytes=2.5e6, seconds=0.35),
        ...     Measurement(size_bytes=10e6, seconds=1.1),
        ... )
        >>> round(link.seconds(5e6), 3)
        0.6
    """
    if not measured:
        raise ValueError("measured must hold at least one Measurement, got none. Measure one.")
    per_byte, per_round = 0.0, link.latency_s
    if len({transfer.size_bytes / transfer.rounds for transfer in measured}) > 1:
        per_byte, per_round = _fit(measured)
    else:
        transfer_s = [t.seconds - t.rounds * per_round for t in measured]
        if min(transfer_s) > 0:
            per_byte = sum(transfer_s) / sum(t.size_bytes for t in measured)
    if per_byte <= 0 < per_round:
        # All of it is latency: the rate is too high to be seen.
        return replace(link, latency_s=_fit_one([t.rounds / t.seconds for t in measured]))
    if per_round < 0:
        per_byte, per_round = _fit_one([t.size_bytes / t.seconds for t in measured]), 0.0
    return replace(link, bytes_per_s=1 / per_byte, latency_s=per_round)


def _fit(measured: tuple[Measurement, ...]) -> tuple[float, float]:
    """Return seconds a byte and seconds a round: weighted least squares of two unknowns."""
    rows = [(t.size_bytes / t.seconds, t.rounds / t.seconds) for t in measured]
    bb, br, rr = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    b, r = sum(row[0] for row in rows), sum(row[1] for row in rows)
    determinant = bb * rr - br * br
    return (rr * b - br * r) / determinant, (bb * r - br * b) / determinant


def _fit_one(rows: list[float]) -> float:
    return sum(rows) / sum(row * row for row in rows)
