import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from codistill.lab import documents


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    name: str
    ratio: float
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()
    limit: float | None = None


def test_a_record_survives_the_way_through_json() -> None:
    record = Record(name="x", ratio=0.1, kind="b", sizes=(1, 2), limit=3.0)
    document = json.loads(json.dumps(documents.to_document(record)))
    assert documents.from_document(Record, document, where="here") == record


def test_numbers_that_are_not_finite_become_null_and_then_nan() -> None:
    document = documents.to_document(Record(name="x", ratio=math.inf))
    assert document["ratio"] is None
    read = documents.from_document(Record, document, where="here")
    assert math.isnan(read.ratio)
    assert read.limit is None


def test_a_whole_number_serves_where_a_float_is_expected() -> None:
    read = documents.from_document(Record, {"name": "x", "ratio": 1}, where="here")
    assert isinstance(read.ratio, float)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "here must hold a JSON object, got list"),
        ({"ratio": 1.0}, "here must hold 'name', and it does not"),
        ({"name": "x", "ratio": 1.0, "colour": "red"}, "fields of Record only, got 'colour'"),
        ({"name": 1, "ratio": 1.0}, "here: name must be of type str, got 1"),
        ({"name": "x", "ratio": True}, "here: ratio must be of type float, got True"),
        ({"name": "x", "ratio": 1.0, "kind": "c"}, "here: kind must be of type"),
        ({"name": "x", "ratio": 1.0, "sizes": 3}, "here: sizes must be of type"),
    ],
)
def test_what_is_wrong_with_a_document_is_said(document: object, message: str) -> None:
    with pytest.raises(ValueError, match="here") as caught:
        documents.from_document(Record, document, where="here")  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_json_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    documents.write_json(path, {"a": 1})
    documents.write_json(path, {"a": 2})
    assert documents.read_json(path) == {"a": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"x\.json must hold JSON"):
        documents.read_json(path)
