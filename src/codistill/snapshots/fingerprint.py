"""Whether two states are of the same model."""

import hashlib
import json
from collections.abc import Mapping, Sequence


def fingerprint(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return a digest that is equal exactly if all names and shapes are.

    Dtypes do not count: a peer may keep its weights in another precision.

    Args:
        shapes: Shape of every tensor by name, in any order.

    Returns:
        SHA-256, 64 hexadecimal digits.

    Example:
        >>> fingerprint({"a": (2, 3), "b": ()}) == fingerprint({"b": [], "a": [2, 3]})
        True
    """
    pairs = sorted((name, [int(size) for size in shape]) for name, shape in shapes.items())
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def describe_difference(there: Mapping[str, Sequence[int]], here: Mapping[str, Sequence[int]]) -> str | None:
    """Say how two models differ, for a message.

    Args:
        there: Shapes by name of the snapshot.
        here: Shapes by name of this model.

    Returns:
        The first difference in order of names and the number of the others; None if there is none.

    Example:
        >>> describe_difference({"head.weight": (10, 512)}, {"head.weight": (100, 512), "head.bias": (100,)})
        "'head.bias' is missing there, and 1 more difference"
    """
    differences = [
        text for name in sorted(there.keys() | here.keys()) if (text := _difference(name, there, here))
    ]
    if not differences:
        return None
    others = len(differences) - 1
    return differences[0] + (f", and {others} more difference{'s' * (others > 1)}" if others else "")


def _difference(
    name: str, there: Mapping[str, Sequence[int]], here: Mapping[str, Sequence[int]]
) -> str | None:
    if name not in there:
        return f"{name!r} is missing there"
    if name not in here:
        return f"{name!r} is unknown here"
    if list(there[name]) != list(here[name]):
        return f"{name!r} is {list(there[name])} there and {list(here[name])} here"
    return None
