"""The JSON documents of a run: what is written, and how untrusted bytes become checked fields."""

import json
import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from codistill.errors import SnapshotError, SnapshotFormatError

FORMAT_VERSION: Final = 1
MAX_INTEGER: Final = 2**63 - 1
SHA256: Final = re.compile(r"[0-9a-f]{64}")
RUN_ID: Final = re.compile(r"[0-9a-f]{1,64}")
_LONGEST_REASON = 1000


def write_document(fields: Mapping[str, Any]) -> bytes:
    """Return fields as a document of this format: UTF-8, sorted keys, no NaN.

    Raises:
        ValueError: If a number is not finite.

    Example:
        >>> write_document({"run_id": "c0ffee"})
        b'{"format": 1, "run_id": "c0ffee"}'
    """
    return json.dumps({"format": FORMAT_VERSION, **fields}, sort_keys=True, allow_nan=False).encode()


@contextmanager
def refusals(kind: str, key: str) -> Iterator[None]:
    """Turn what goes wrong while a document is parsed into one error that says where it is.

    Args:
        kind: What the document is, for the message.
        key: Where it was read.

    Raises:
        SnapshotFormatError: In place of any ValueError, TypeError or RecursionError inside that is not
            itself a SnapshotError.
    """
    peer = key.split("/", 1)[0] if "/" in key else None
    try:
        yield
    except SnapshotError:
        raise
    except RecursionError as e:
        raise SnapshotFormatError(
            f"The {kind} at {key!r} cannot be used: it is nested too deeply.", peer=peer, key=key
        ) from e
    except (ValueError, TypeError) as e:
        # A field's name is a stranger's too, and may be as long as the document.
        reason = str(e) if len(str(e)) <= _LONGEST_REASON else f"{str(e)[:_LONGEST_REASON]}..."
        raise SnapshotFormatError(
            f"The {kind} at {key!r} cannot be used: {reason}", peer=peer, key=key
        ) from e


def finite_or_none(number: float | None) -> float | None:
    """Return the number, or None in place of NaN and infinities, which JSON does not have."""
    return number if number is not None and math.isfinite(number) else None


def is_text(value: str) -> bool:
    """Return whether a string can be written as UTF-8 (JSON escapes can spell strings that cannot)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class Fields:
    """The fields of one JSON object, each checked as it is read.

    Every method raises ValueError with the field's full name if it is missing or not what is asked for.
    Unknown fields are ignored, so that a later version may add some.
    """

    def __init__(self, value: object, name: str) -> None:
        """Wrap a parsed JSON value.

        Args:
            value: What has to be an object.
            name: Its full name within the document; empty for the document itself.

        Raises:
            ValueError: If it is not an object.
        """
        if not isinstance(value, dict):
            raise _wrong(name or "the document", "a JSON object", value)
        self._values: dict[str, object] = value
        self._name = name

    @property
    def name(self) -> str:
        """Its full name within the document; empty for the document itself."""
        return self._name

    @classmethod
    def parse(cls, data: bytes, *, max_bytes: int) -> "Fields":
        """Parse one JSON object.

        Args:
            data: The JSON, in UTF-8.
            max_bytes: Refuse longer documents.

        Raises:
            ValueError: If it is not one JSON object, or has a field twice or a number that is not finite.
        """
        if len(data) > max_bytes:
            raise ValueError(f"it must have at most {max_bytes} bytes, got {len(data)}.")
        try:
            value = json.loads(
                data.decode(),
                object_pairs_hook=_object_without_repeats,
                parse_constant=_refuse_constant,
                parse_float=_finite_float,
            )
        except UnicodeDecodeError as e:
            raise ValueError(f"it must be UTF-8, got {e.reason} at byte {e.start}.") from e
        except json.JSONDecodeError as e:
            raise ValueError(f"it must be JSON, got {e.msg} at character {e.pos}.") from e
        return cls(value, "")

    @classmethod
    def of_document(cls, data: bytes, *, max_bytes: int) -> "Fields":
        """Parse a document, as `parse` does, and check its format's version.

        Raises:
            ValueError: As `parse`, or if it is of a newer format than this version reads.
        """
        fields = cls.parse(data, max_bytes=max_bytes)
        version = fields.integer("format", minimum=1)
        if version > FORMAT_VERSION:
            raise ValueError(
                f"it is of format {version} and this version of codistill reads format {FORMAT_VERSION}. "
                "Upgrade codistill here."
            )
        return fields

    def integer(self, field: str, *, minimum: int = 0, maximum: int = MAX_INTEGER) -> int:
        """Return an integer; True and False are none."""
        return as_integer(self._get(field), self._full(field), minimum=minimum, maximum=maximum)

    def number_or_none(self, field: str) -> float | None:
        """Return a number, or None for null."""
        value = self._get(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(self._full(field), "a number or null", value)
        if abs(value) > MAX_INTEGER and isinstance(value, int):
            raise _wrong(self._full(field), "a 64-bit number", value)
        return float(value)

    def boolean(self, field: str) -> bool:
        """Return True or False."""
        value = self._get(field)
        if not isinstance(value, bool):
            raise _wrong(self._full(field), "true or false", value)
        return value

    def text(self, field: str, pattern: re.Pattern[str] | None = None) -> str:
        """Return a string that matches the pattern as a whole."""
        return as_string(self._get(field), self._full(field), pattern)

    def has(self, field: str) -> bool:
        """Return whether the field is there."""
        return field in self._values

    def is_null(self, field: str) -> bool:
        """Return whether the field is there and null."""
        return self._get(field) is None

    def fields(self, field: str) -> "Fields":
        """Return an object within this one."""
        return Fields(self._get(field), self._full(field))

    def items(self, field: str, *, limit: int) -> list[tuple[str, object]]:
        """Return names and values of an object within this one."""
        value = self._get(field)
        if not isinstance(value, dict):
            raise _wrong(self._full(field), "a JSON object", value)
        if len(value) > limit:
            raise ValueError(f"{self._full(field)} must have at most {limit} entries, got {len(value)}.")
        return list(value.items())

    def array(self, field: str, *, limit: int) -> list[object]:
        """Return the elements of an array."""
        return as_array(self._get(field), self._full(field), limit=limit)

    def objects(self, field: str, *, limit: int) -> "list[Fields]":
        """Return the elements of an array of objects."""
        name = self._full(field)
        return [Fields(value, f"{name}[{i}]") for i, value in enumerate(self.array(field, limit=limit))]

    def integers(self, field: str, *, limit: int) -> tuple[int, ...]:
        """Return the elements of an array of integers >= 0."""
        name = self._full(field)
        values = self.array(field, limit=limit)
        return tuple(as_integer(value, f"{name}[{i}]") for i, value in enumerate(values))

    def _get(self, field: str) -> object:
        if field not in self._values:
            raise ValueError(f"{self._full(field)} must be there, got nothing.")
        return self._values[field]

    def _full(self, field: str) -> str:
        return f"{self._name}.{field}" if self._name else field


def as_integer(value: object, name: str, *, minimum: int = 0, maximum: int = MAX_INTEGER) -> int:
    """Return the value if it is an integer within the limits, else raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise _wrong(name, f"an integer between {minimum} and {maximum}", value)
    return value


def as_string(value: object, name: str, pattern: re.Pattern[str] | None = None) -> str:
    """Return the value if it is a string that matches as a whole, else raise ValueError."""
    if not isinstance(value, str) or not is_text(value):
        raise _wrong(name, "a string", value)
    if pattern is not None and pattern.fullmatch(value) is None:
        raise _wrong(name, f"a string that matches {pattern.pattern}", value)
    return value


def as_array(value: object, name: str, *, limit: int) -> list[object]:
    """Return the value if it is an array that is not too long, else raise ValueError."""
    if not isinstance(value, list):
        raise _wrong(name, "an array", value)
    if len(value) > limit:
        raise ValueError(f"{name} must have at most {limit} elements, got {len(value)}.")
    return value


def _wrong(name: str, rule: str, value: object) -> ValueError:
    # ascii(): what strangers wrote must not reach a terminal as control sequences.
    return ValueError(f"{name} must be {rule}, got {ascii(reprlib.repr(value))[1:-1]}.")


def _object_without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("every field must be there once, got one that is repeated.")
    return values


def _refuse_constant(constant: str) -> object:
    raise ValueError(f"numbers must be finite, got {constant}.")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"numbers must be finite, got {text[:40]}.")
    return number
