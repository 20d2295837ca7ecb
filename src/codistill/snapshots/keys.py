"""Where in a store each document of a run is.

docs/architecture.md draws the tree. Each key is written by one peer only, except `RUN_KEY`, which is
created once.
"""

import re
from typing import Final

RUN_KEY: Final = "run.json"

_PEER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_COUNTER = r"(0|[1-9][0-9]{0,18})"
_SNAPSHOT = re.compile(rf"{_COUNTER}-{_COUNTER}")
_MANIFEST = re.compile(rf"({_PEER.pattern})/snapshots/{_COUNTER}-{_COUNTER}/manifest\.json")


def check_peer_name(name: str, argument: str = "peer") -> str:
    """Return `name` if a peer may have it.

    Args:
        name: 1 to 64 letters, digits, ``.``, ``_`` and ``-``, the first a letter or digit; not ``run.json``,
            which is a file beside the peers' folders (in any case, as some file systems ignore it).
        argument: What to call it in the error.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it breaks the rule.

    Example:
        >>> check_peer_name("a")
        'a'
    """
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be a string, got {type(name).__name__}.")
    if _PEER.fullmatch(name) is None:
        raise ValueError(
            f"{argument} must be 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or "
            f"digit, got {name[:80]!r}. Rename the peer."
        )
    if name.casefold() == RUN_KEY:
        raise ValueError(f"{argument} must not be {RUN_KEY!r}, which is the run's own file. Rename the peer.")
    return name


def is_peer_name(name: str) -> bool:
    """Return whether a peer may have this name: what else lies in a store is none of ours."""
    return _PEER.fullmatch(name) is not None and name.casefold() != RUN_KEY


def pointer_key(peer: str) -> str:
    """Return the key of the pointer to a peer's newest snapshot."""
    return f"{peer}/latest.json"


def status_key(peer: str) -> str:
    """Return the key of what a peer tells of itself."""
    return f"{peer}/status.json"


def life_key(peer: str, incarnation: int) -> str:
    """Return the key whose creation claims an incarnation of a peer."""
    return f"{peer}/lives/{incarnation}.json"


def manifest_key(peer: str, incarnation: int, sequence: int) -> str:
    """Return the key of a snapshot's manifest.

    Example:
        >>> manifest_key("a", 0, 12)
        'a/snapshots/0-12/manifest.json'
    """
    return f"{snapshot_prefix(peer, incarnation, sequence)}/manifest.json"


def shard_key(peer: str, incarnation: int, sequence: int, name: str) -> str:
    """Return the key of one shard of a snapshot, beside its manifest."""
    return f"{snapshot_prefix(peer, incarnation, sequence)}/{name}"


def shard_name(index: int, count: int) -> str:
    """Return the file name of a shard.

    Args:
        index: Which shard, from 1 to `count`.
        count: How many shards the snapshot has.

    Raises:
        ValueError: If `index` is outside.

    Example:
        >>> shard_name(1, 4)
        'shard-00001-of-00004.safetensors'
    """
    if not 1 <= index <= count:
        raise ValueError(f"index must be between 1 and count = {count}, got {index}.")
    return f"shard-{index:05d}-of-{count:05d}.safetensors"


def snapshots_prefix(peer: str) -> str:
    """Return the folder of a peer's snapshots."""
    return f"{peer}/snapshots"


def snapshot_prefix(peer: str, incarnation: int, sequence: int) -> str:
    """Return the folder of one snapshot."""
    return f"{peer}/snapshots/{incarnation}-{sequence}"


def parse_snapshot_name(name: str) -> tuple[int, int] | None:
    """Return incarnation and sequence of a snapshot's folder; None if it is not one.

    Example:
        >>> parse_snapshot_name("0-12"), parse_snapshot_name("README")
        ((0, 12), None)
    """
    match = _SNAPSHOT.fullmatch(name)
    return None if match is None else (int(match[1]), int(match[2]))


def parse_manifest_key(key: str) -> tuple[str, int, int]:
    """Return peer, incarnation and sequence of a manifest's key.

    Raises:
        ValueError: If it is not of the form that `manifest_key` makes.

    Example:
        >>> parse_manifest_key("a/snapshots/0-12/manifest.json")
        ('a', 0, 12)
    """
    match = _MANIFEST.fullmatch(key)
    if match is None:
        raise ValueError(
            f"key must be like '<peer>/snapshots/<incarnation>-<sequence>/manifest.json', got {key[:200]!r}."
        )
    return match[1], int(match[2]), int(match[3])
