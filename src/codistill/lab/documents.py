"""Frozen dataclasses to JSON and back, with the bad field named."""

import dataclasses
import functools
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def to_document(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as JSON can hold them.

    Tuples become lists, mappings objects, and numbers that are not finite become null: JSON has none.
    """
    return {field.name: _plain(getattr(record, field.name)) for field in dataclasses.fields(record)}


def from_document(cls: type[T], document: Mapping[str, Any], *, where: str) -> T:
    """Return the dataclass that `to_document` wrote; null in a ``float`` field is NaN.

    Args:
        cls: A dataclass whose fields are str, int, float, bool, Literal, tuples of those, mappings from
            str to those, or None.
        document: Parsed JSON.
        where: File it was read from, for messages.

    Raises:
        ValueError: If a field is unknown, missing, or of another type.
    """
    if not isinstance(document, Mapping):
        raise ValueError(f"{where} must hold a JSON object, got {type(document).__name__}.")
    hints = _hints(typing.cast("Any", cls))
    fields = {field.name: field for field in dataclasses.fields(typing.cast("Any", cls))}
    for name in document:
        if name not in fields:
            raise ValueError(f"{where} must hold fields of {cls.__name__} only, got {name!r}.")
    values = {}
    for name, field in fields.items():
        if name in document:
            values[name] = _typed(document[name], hints[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where} must hold {name!r}, and it does not.")
    return cls(**values)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    # A run has thousands of rows, and working the hints out takes longer than reading one.
    return typing.get_type_hints(cls)


def write_json(path: Path, document: Any) -> None:
    """Write JSON so that readers see the old file or the new one, never a part.

    Raises:
        OSError: If the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ValueError(f"{path} must hold JSON, and it does not: {e}.") from e


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _typed(value: Any, hint: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (choice for choice in typing.get_args(hint) if choice is not types.NoneType)
        origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_typed(item, typing.get_args(hint)[0], where) for item in value)
    if origin is Mapping and isinstance(value, Mapping):
        of_value = typing.get_args(hint)[1]
        return {str(key): _typed(item, of_value, f"{where}[{key!r}]") for key, item in value.items()}
    if hint is float and value is None:
        return math.nan
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is typing.Literal and value in typing.get_args(hint):
        return value
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    expected = hint.__name__ if isinstance(hint, type) and origin is None else hint
    raise ValueError(f"{where} must be of type {expected}, got {value!r}.")
