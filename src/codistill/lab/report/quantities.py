"""Numbers as tables and figures show them."""

ABSENT = "-"
"""Shown where a number does not apply or was not measured."""


def number(value: float | None, decimals: int, scale: float = 1.0) -> str:
    """Return a number, times ``scale``, with so many digits after the point."""
    return ABSENT if value is None else f"{value * scale:.{decimals}f}"


def spread(mean: float | None, sd: float | None, decimals: int, scale: float = 1.0) -> str:
    """Return a mean and its standard deviation, or the mean alone if that is unknown."""
    if mean is None or sd is None:
        return number(mean, decimals, scale)
    return f"{number(mean, decimals, scale)} +- {number(sd, decimals, scale)}"


def in_bytes(value: float | None) -> str:
    """Return a number of bytes in units of a thousand.

    Example:
        >>> in_bytes(999), in_bytes(21_508), in_bytes(None)
        ('999 B', '21.5 kB', '-')
    """
    if value is None:
        return ABSENT
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def in_thousands(value: float | None) -> str:
    """Return a whole number with a comma between thousands."""
    return ABSENT if value is None else f"{value:,.0f}"
