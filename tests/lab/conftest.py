import importlib

import pytest

from codistill.lab.recipe import Recipe


@pytest.fixture(scope="session", autouse=True)
def _scikit_learn_is_loaded() -> None:
    # Its first import sets environment variables, which would be blamed on the test that happens to be first.
    importlib.import_module("sklearn.datasets")


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """A recipe that two peers finish in well under a second."""
    return Recipe(
        name="tiny",
        task="digits",
        peers=2,
        updates=40,
        batch_size=16,
        interval_steps=5,
        evaluate_every=10,
        seed=3,
    )
