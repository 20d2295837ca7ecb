import json

import pytest

from codistill.errors import SnapshotFormatError, SnapshotIntegrityError
from codistill.snapshots.document import Fields, finite_or_none, refusals, write_document


def document(**fields):
    return Fields.of_document(json.dumps({"format": 1, **fields}).encode(), max_bytes=10_000)


def test_a_document_is_sorted_and_says_its_format():
    assert write_document({"b": 1, "a": None}) == b'{"a": null, "b": 1, "format": 1}'


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_not_written(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_document({"a": number})
    assert finite_or_none(number) is None
    assert finite_or_none(1.5) == 1.5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must be JSON"),
        (b"\xff", "must be UTF-8"),
        (b"[]", "must be a JSON object, got \\[\\]"),
        (b'{"format": NaN}', "numbers must be finite, got NaN"),
        (b'{"format": 1, "a": 1e999}', "numbers must be finite, got 1e999"),
        (b'{"format": 1, "format": 1}', "every field must be there once"),
        (b"{}", "format must be there"),
        (b'{"format": true}', "format must be an integer"),
        (b'{"format": 0}', "format must be an integer between 1"),
        (b'{"format": 2}', "of format 2 and this version of codistill reads format 1. Upgrade"),
        (b'{"format": ' + b"1" * 5000 + b"}", "."),
        (b'{"format": 1, "a": "' + b"x" * 10_000 + b'"}', "at most 10000 bytes"),
    ],
)
def test_bytes_that_are_no_document_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        Fields.of_document(data, max_bytes=10_000)


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("integer", True),
        ("integer", -1),
        ("integer", 1.0),
        ("integer", "1"),
        ("integer", 2**63),
        ("number_or_none", False),
        ("number_or_none", "1"),
        ("number_or_none", 10**400),
        ("boolean", 1),
        ("boolean", None),
        ("text", 1),
        ("text", "\ud800"),
        ("fields", []),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(method, value):
    with pytest.raises(ValueError, match=r"^outer\.x must be .*, got "):
        getattr(document(outer={"x": value}).fields("outer"), method)("x")


@pytest.mark.parametrize("method", ["items", "array", "objects", "integers"])
def test_collections_are_bounded_and_of_their_kind(method):
    fields = document(many=[1, 2, 3], mapping={"a": 1, "b": 2, "c": 3}, text="abc")
    with pytest.raises(ValueError, match="text must be a"):
        getattr(fields, method)("text", limit=2)
    with pytest.raises(ValueError, match=r"must have at most 2 e.*, got 3"):
        getattr(fields, method)("mapping" if method == "items" else "many", limit=2)


def test_elements_are_named_by_their_index():
    with pytest.raises(ValueError, match=r"list\[1\] must be an integer"):
        document(list=[0, "1"]).integers("list", limit=10)
    with pytest.raises(ValueError, match=r"list\[0\] must be a JSON object"):
        document(list=[0]).objects("list", limit=10)


def test_what_strangers_wrote_reaches_no_terminal_as_control_sequences():
    with pytest.raises(ValueError, match="x must be an integer") as caught:
        document(x="\x1b[2J\u202e").integer("x")
    assert str(caught.value).isascii()
    assert "\x1b" not in str(caught.value)


def test_refusals_say_where_the_document_is():
    def parse():
        with refusals("status", "a/status.json"):
            raise TypeError("step must be an integer.")

    with pytest.raises(
        SnapshotFormatError, match=r"status at 'a/status\.json' cannot be used: step"
    ) as caught:
        parse()
    assert (caught.value.key, caught.value.peer) == ("a/status.json", "a")


def test_a_refusal_keeps_its_own_class():
    with pytest.raises(SnapshotIntegrityError, match="altered"), refusals("pointer", "a/latest.json"):
        raise SnapshotIntegrityError("altered")


def test_nesting_without_end_is_refused():
    def parse():
        with refusals("status", "a/status.json"):
            Fields.of_document(b"[" * 200_000, max_bytes=10**6)

    with pytest.raises(SnapshotFormatError, match="nested too deeply"):
        parse()
