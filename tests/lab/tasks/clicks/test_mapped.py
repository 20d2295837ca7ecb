from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from codistill.lab.tasks.clicks.mapped import mapped_rows

ROW = np.dtype([("number", "<f4", (2,)), ("target", "<u4")])


def parts() -> Iterator[np.ndarray]:
    for start in (0, 3):
        rows = np.zeros(3, dtype=ROW)
        rows["target"] = np.arange(start, start + 3)
        yield rows


def refuse() -> Iterator[np.ndarray]:
    raise AssertionError("made a second time")


def test_rows_are_made_once_and_read_from_the_cache_afterwards(cache: Path) -> None:
    made = mapped_rows("rows-1", ROW, parts)
    assert made["target"].tolist() == [0, 1, 2, 3, 4, 5]
    assert not made.flags.writeable
    assert [path.name for path in cache.iterdir()] == ["rows-1.rows"]
    assert mapped_rows("rows-1", ROW, refuse).tobytes() == made.tobytes()


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert mapped_rows("rows-1", ROW, parts)["target"].tolist() == [0, 1, 2, 3, 4, 5]
    assert cache.read_text() == "a file where the folder should be"


def test_rows_that_failed_half_way_leave_nothing(cache: Path) -> None:
    def fail() -> Iterator[np.ndarray]:
        yield from parts()
        raise ValueError("line 7")

    with pytest.raises(ValueError, match="line 7"):
        mapped_rows("rows-1", ROW, fail)
    assert list(cache.iterdir()) == []
