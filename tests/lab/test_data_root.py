from pathlib import Path

import pytest

from codistill.lab.data_root import data_root


def test_the_argument_comes_before_the_environment_and_that_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CODISTILL_DATA", raising=False)
    assert data_root() == Path("data")
    monkeypatch.setenv("CODISTILL_DATA", "/from/environment")
    assert data_root() == Path("/from/environment")
    assert data_root("/from/argument") == Path("/from/argument")
    # The variable is put back before the check that nothing leaks.
    monkeypatch.undo()
