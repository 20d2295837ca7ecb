"""What the models of a run are called."""

MOST_PEERS = 26
"""Peers are named with one letter each."""


def peer_names(count: int) -> tuple[str, ...]:
    """Return the names of the first ``count`` peers.

    Example:
        >>> peer_names(3)
        ('a', 'b', 'c')
    """
    return tuple(chr(ord("a") + index) for index in range(count))
