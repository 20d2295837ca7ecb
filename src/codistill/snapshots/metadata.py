"""What a user may put into a snapshot's manifest beside the weights."""

import math
from collections.abc import Mapping
from typing import Any, Final

from codistill.snapshots.document import MAX_INTEGER, is_text

MAX_DEPTH: Final = 16
_RULE = "strings, finite 64-bit numbers, booleans, None, and lists and mappings of these"


def check_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of metadata that can be written as JSON and read back the same.

    Args:
        metadata: Names to strings, finite numbers, booleans, None, and lists and mappings of these,
            at most 16 deep. Tuples become lists.

    Returns:
        The copy: what the caller changes later changes nothing in it.

    Raises:
        TypeError: If there is anything else in it; the message says where.

    Example:
        >>> check_metadata({"arch": "resnet18", "widths": (64, 128)})
        {'arch': 'resnet18', 'widths': [64, 128]}
    """
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, got {type(metadata).__name__}.")
    return _copy_of_mapping(metadata, ())


# Keys and indices from the outermost level inwards. They become text in an error only: spelled out at every
# level, a long key over a long list would take for ever.
_Path = tuple[str | int, ...]


def _copy(value: object, path: _Path) -> Any:
    if len(path) >= MAX_DEPTH:
        raise TypeError(f"metadata must be at most {MAX_DEPTH} levels deep, got more. Flatten it.")
    if isinstance(value, Mapping):
        return _copy_of_mapping(value, path)
    if isinstance(value, list | tuple):
        return [_copy(item, (*path, i)) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and is_text(value):
        return str(value)
    if isinstance(value, int) and abs(value) <= MAX_INTEGER:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    got = repr(value)[:40] if isinstance(value, str | int | float) else type(value).__name__
    raise TypeError(f"{_name(path)} must be made of {_RULE}, got {got}. Convert it, or leave it out.")


def _copy_of_mapping(value: Mapping[Any, object], path: _Path) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str) or not is_text(key):
            raise TypeError(f"{_name(path)} must have strings as keys, got {key!r:.40}. Convert it.")
    return {str(key): _copy(item, (*path, key)) for key, item in value.items()}


def _name(path: _Path) -> str:
    return "metadata" + "".join(f"[{key!r}]" for key in path)
