import sys
from pathlib import Path

import pytest

from codistill.errors import ExtraMissingError
from codistill.extras import require


def test_what_is_not_installed_is_named_with_the_command_that_helps() -> None:
    with pytest.raises(ExtraMissingError, match=r"Run: pip install 'codistill\[lab\]'") as caught:
        require("no_such_package_anywhere.part", "lab")
    assert str(caught.value).startswith("no_such_package_anywhere must be installed")


def test_an_import_that_fails_inside_a_package_is_not_taken_for_its_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import no_such_package_anywhere\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModuleNotFoundError, match="no_such_package_anywhere") as caught:
        require("half_installed", "lab")
    assert not isinstance(caught.value, ExtraMissingError)
