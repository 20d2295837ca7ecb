import pytest

from codistill.cli.existing_store import open_existing
from codistill.errors import SnapshotFormatError, StoreError
from codistill.exchange.checkpoint.lives import open_run
from codistill.stores.directory import DirectoryStore


@pytest.fixture
def results(tmp_path):
    """Return a results folder: its own run.json, and a store for each of five seeds."""
    folder = tmp_path / "digits"
    for seed in range(5):
        open_run(DirectoryStore(folder / "codistillation" / f"seed-{seed}" / "exchange"))
    (folder / "run.json").write_text('{"kind": "codistill results"}')
    return folder


def test_a_store_is_opened(results):
    store = results / "codistillation" / "seed-3" / "exchange"
    assert open_existing(str(store)).describe() == str(store)


@pytest.mark.parametrize("part", ["", "codistillation"])
def test_of_results_the_stores_in_them_are_named(results, part):
    arm = results / "codistillation"
    named = ", ".join(f"{arm}/seed-{seed}/exchange" for seed in range(3))
    message = f"got {results / part}, where results of codistill train are. .* name one: {named}, and 2 more."
    with pytest.raises(StoreError, match=message):
        open_existing(str(results / part))


def test_of_the_results_of_one_seed_its_store_is_named(results):
    seed = results / "codistillation" / "seed-0"
    with pytest.raises(StoreError, match=f"got {seed}, .* name one: {seed}/exchange."):
        open_existing(str(seed))


def test_what_is_neither_a_store_nor_results_is_told_for_what_it_is(tmp_path):
    with pytest.raises(StoreError, match=r"which has no run\.json\. Start a peer first"):
        open_existing(str(tmp_path))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(SnapshotFormatError, match="run document"):
        open_existing(str(tmp_path))
