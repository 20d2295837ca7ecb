import gzip
from pathlib import Path

import numpy as np
import pytest

from codistill.errors import DataMissingError
from codistill.lab.tasks.clicks.fields import Fields, find_table, read_blocks, read_text

SOURCE = Path("table.csv")


def cut(text: bytes, columns: int = 3, **options) -> Fields:
    return Fields(text, columns=columns, separator=b",", source=SOURCE, **options)


def test_columns_are_those_of_splitting_each_line() -> None:
    random = np.random.RandomState(0)
    rows = [[b"x" * random.randint(0, 6) for _ in range(4)] for _ in range(50)]
    fields = cut(b"\n".join(b",".join(row) for row in rows) + b"\n", columns=4)
    assert len(fields) == 50
    for index in range(4):
        assert fields.column(index).tolist() == [row[index] for row in rows]


def test_the_last_line_may_lack_its_line_break() -> None:
    assert cut(b"a,b,c\nd,e,f").column(2).tolist() == [b"c", b"f"]


@pytest.mark.parametrize(("text", "line", "got"), [(b"a,b,c\nd,e\n", 8, 2), (b"a,b\nc,d,e,f\n", 7, 2)])
def test_a_line_with_another_number_of_fields_is_named(text: bytes, line: int, got: int) -> None:
    with pytest.raises(ValueError, match=rf"Line {line} of table.csv must have 3 fields, got {got}\."):
        cut(text, first_line=7)


def test_numbers_are_nan_where_missing_and_refused_where_they_are_words() -> None:
    numbers = cut(b"1,-2.5,?\n?,3,4\n").numbers
    assert numbers(0, missing=b"?").dtype == np.float32
    np.testing.assert_array_equal(numbers(0, missing=b"?"), [1, np.nan])
    np.testing.assert_array_equal(numbers(1, missing=b"?"), [-2.5, 3])
    np.testing.assert_array_equal(numbers(2, missing=b"?"), [np.nan, 4])
    with pytest.raises(ValueError, match=r"Column 3 of table.csv must hold numbers"):
        cut(b"1,2,many\n").numbers(2, missing=b"?")


def test_choices_are_numbered_in_turn_and_another_value_is_named() -> None:
    fields = cut(b"no,1,a\nyes,2,b\nno,3,c\n", first_line=2)
    assert fields.choices(0, b"no", b"yes").tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match=r"Column 1 of line 3 of table.csv must be one of no, got 'yes'\."):
        fields.choices(0, b"no")


@pytest.mark.parametrize("name", ["table.txt", "table.txt.gz"])
@pytest.mark.parametrize("block_bytes", [1, 5, 7, 1000])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_blocks_are_whole_lines_of_the_whole_file(
    tmp_path: Path, name: str, block_bytes: int, end: bytes
) -> None:
    content = b"first\r\nsecond,line\r\n3" + end
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    blocks = list(read_blocks(path, block_bytes=block_bytes))
    assert all(block.endswith(b"\n") for block in blocks[:-1])
    assert b"".join(blocks) == read_text(path) == b"first\nsecond,line\n3" + end


def test_a_table_is_found_plain_or_compressed_and_missed_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "somewhere"
    with pytest.raises(
        DataMissingError, match=r"'somewhere' is not there: .*t\.csv and t\.csv\.gz .* a shop"
    ):
        find_table(folder, "t.csv", origin="a shop")
    folder.mkdir()
    (folder / "t.csv.gz").touch()
    assert find_table(folder, "t.csv", origin="a shop").name == "t.csv.gz"
    (folder / "t.csv").touch()
    assert find_table(folder, "t.csv", origin="a shop").name == "t.csv"
