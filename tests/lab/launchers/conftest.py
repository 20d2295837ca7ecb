from pathlib import Path

import pytest

from codistill.lab.own_file import load_from_file
from codistill.lab.recipe import Recipe


@pytest.fixture(scope="session")
def held() -> Recipe:
    """Two peers in lockstep, one of which can be cut off: see held.py."""
    recipe = load_from_file(f"{Path(__file__).with_name('held.py')}:recipe", what="recipe")
    assert isinstance(recipe, Recipe)
    return recipe
