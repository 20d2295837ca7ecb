from pathlib import Path

import pytest

from codistill.errors import RecipeError
from codistill.lab.own_file import load_from_file


def test_a_name_of_a_file_is_loaded_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("thing = object()\n")
    word = f"{tmp_path / 'mine.py'}:thing"
    assert load_from_file(word, what="recipe") is load_from_file(word, what="recipe")


def test_a_missing_file_and_a_missing_name_are_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="recipe must be in a file that exists"):
        load_from_file(f"{tmp_path}/none.py:thing", what="recipe")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(RecipeError, match=r"task must be a name in .*empty\.py, got 'Thing'"):
        load_from_file(f"{tmp_path}/empty.py:Thing", what="task")


def test_what_the_file_raises_is_passed_on_each_time(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            load_from_file(f"{tmp_path}/broken.py:thing", what="recipe")
