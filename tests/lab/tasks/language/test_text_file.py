import gzip
from pathlib import Path

import pytest

from codistill.errors import DataMissingError
from codistill.lab.tasks.language.text_file import check_files, read_lines, read_text


def test_line_ends_stay_as_they_are(tmp_path: Path) -> None:
    text = "one\r\ntwo\x85three\u2028\rfour\n\nfive"
    for path in (tmp_path / "a.txt", tmp_path / "a.txt.gz"):
        data = text.encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        assert read_text(path) == text
        assert list(read_lines(path)) == ["one\r\n", "two\x85three\u2028\rfour\n", "\n", "five"]


def test_long_lines_come_in_parts_and_broken_bytes_as_a_sign(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * 70_000 + b"\xff\nb\n")
    assert [len(line) for line in read_lines(path)] == [65_536, 4_466, 2]
    assert read_text(path)[70_000:] == "\ufffd\nb\n"


def test_a_missing_file_is_named_in_one_sentence(tmp_path: Path) -> None:
    there, missing = tmp_path / "set" / "a.txt", tmp_path / "set" / "b.txt"
    there.parent.mkdir()
    there.touch()
    check_files(there, source="somewhere")
    with pytest.raises(DataMissingError) as caught:
        check_files(there, missing, source="https://example.org")
    assert str(caught.value) == (
        f"The data set 'set' is not there: looked for {missing}, which comes from https://example.org; "
        "pass --data-root, or set CODISTILL_DATA, to the folder that holds the data sets' folders."
    )
