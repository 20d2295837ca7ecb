"""Bytes, rates, counts and seconds as people write them."""

import math
import re
from typing import Final

_DECIMAL: Final = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY: Final = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?) ?(k|M|G|T|Ki|Mi|Gi)?(bit|B)(?:/s|ps)?")


def parse_rate(text: str, argument: str = "link") -> float:
    """Return a rate in bytes per second.

    Args:
        text: A number and a unit: ``bit`` or ``B`` (bytes), perhaps with k, M, G or T (powers of 1000) or
            Ki, Mi or Gi (powers of 1024) before it, and with ``/s`` or ``ps`` behind it, or neither.
        argument: What to call it in the error.

    Raises:
        ValueError: If it is nothing like that.

    Example:
        >>> parse_rate("10Gbit"), parse_rate("100Mbit/s"), parse_rate("1.5 GB/s")
        (1250000000.0, 12500000.0, 1500000000.0)
    """
    match = _RATE.fullmatch(text.strip())
    rate = 0.0 if match is None else float(match[1]) * (_DECIMAL | _BINARY)[match[2] or ""]
    if match is None or not 0 < rate < math.inf:
        raise ValueError(
            f"{argument} must be a number > 0 and a unit, got {text!r}. "
            "Write 10Gbit, 100Mbit/s (bits) or 1GB/s (bytes)."
        )
    return rate / 8 if match[3] == "bit" else rate


def parse_count(text: str, argument: str) -> int:
    """Return a whole number > 0, which may be written as a float.

    Raises:
        ValueError: If it is none.

    Example:
        >>> parse_count("1.3e9", "params")
        1300000000
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (1 <= value < 2**63 and value == int(value)):
        raise ValueError(f"{argument} must be a whole number >= 1, got {text!r}. Write 1300000000 or 1.3e9.")
    return int(value)


def format_bytes(count: float) -> str:
    """Return a number of bytes with three digits, in powers of 1000.

    Example:
        >>> format_bytes(0), format_bytes(999), format_bytes(40_960), format_bytes(179.2e6)
        ('0 B', '999 B', '41.0 kB', '179 MB')
    """
    return _with_unit(count, (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)))


def format_rate(bytes_per_s: float) -> str:
    """Return a rate in bits, as links are sold.

    Example:
        >>> format_rate(12.5e6)
        '100 Mbit/s'
    """
    units = (("Tbit/s", 1e12), ("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1.0))
    return _with_unit(8 * bytes_per_s, units)


def format_seconds(seconds: float) -> str:
    """Return a duration with three digits.

    Example:
        >>> format_seconds(0), format_seconds(0.0125), format_seconds(90.2), format_seconds(86_400)
        ('0 s', '12.5 ms', '90.2 s', '1,440 min')
    """
    if seconds >= 600:
        return f"{seconds / 60:,.0f} min"
    return _with_unit(seconds, (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))) if seconds else "0 s"


def format_number(value: float) -> str:
    """Return a number with three digits, or with all digits before the point if there are more.

    Example:
        >>> format_number(2.176), format_number(798.6), format_number(2500), format_number(0.0312)
        ('2.18', '799', '2,500', '0.0312')
    """
    if value == 0:
        return "0"
    # Rounded first: 99.96 has three digits before it is written, not four.
    rounded = float(f"{value:.3g}")
    digits = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{round(value, digits):,.{digits}f}"


def _with_unit(value: float, units: tuple[tuple[str, float], ...]) -> str:
    for unit, size in units:
        # As it will be written: 999.9 kB is 1.00 MB.
        if float(f"{value:.3g}") >= size:
            return f"{format_number(value / size)} {unit}"
    unit, size = units[-1]
    return f"{format_number(value / size)} {unit}"
