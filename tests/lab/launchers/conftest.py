from pathlib import Path

import pytest

from codistill.lab import folder
from codistill.lab.folder import RunFolder
from codistill.lab.launch import LaunchOptions, launch
from codistill.lab.own_file import load_from_file
from codistill.lab.recipe import Recipe


@pytest.fixture(scope="session")
def held() -> Recipe:
    """Two peers in lockstep, one of which can be cut off: see held.py."""
    recipe = load_from_file(f"{Path(__file__).with_name('held.py')}:recipe", what="recipe")
    assert isinstance(recipe, Recipe)
    return recipe


@pytest.fixture(scope="session")
def uninterrupted(held: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same recipe, trained on this machine without anything happening; one thread a rank."""
    path = tmp_path_factory.mktemp("uninterrupted")
    out = folder.create(path / "out", arms=[held], seeds=[0], command=[])
    launch(out, [held], options=LaunchOptions(data_root=path, device="cpu", cores=2))
    return out
