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
    return _copy_of_mapping(metadata, "metadata", 1)


def _copy(value: object, name: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise TypeError(f"metadata must be at most {MAX_DEPTH} levels deep, got more. Flatten it.")
    if isinstance(value, Mapping):
        return _copy_of_mapping(value, name, depth)
    if isinstance(value, list | tuple):
        return [_copy(item, f"{name}[{i}]", depth + 1) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and is_text(value):
        return str(value)
    if isinstance(value, int) and abs(value) <= MAX_INTEGER:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    got = repr(value)[:40] if isinstance(value, str | int | float) else type(value).__name__
    raise TypeError(f"{name} must be made of {_RULE}, got {got}. Convert it, or leave it out.")


def _copy_of_mapping(value: Mapping[Any, object], name: str, depth: int) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str) or not is_text(key):
            raise TypeError(f"{name} must have strings as keys, got {key!r:.40}. Convert it.")
    return {str(key): _copy(item, f"{name}[{key!r}]", depth + 1) for key, item in value.items()}
