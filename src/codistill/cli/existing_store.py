"""Open a store to look at it, not to begin a run in it."""

from pathlib import Path
from typing import Final

from codistill.errors import KeyMissingError, SnapshotFormatError, StoreError
from codistill.snapshots.keys import RUN_KEY
from codistill.snapshots.run import MAX_RUN_BYTES, Run
from codistill.stores import Store, open_store

# Where a results folder, one of its arms, and one of its seeds keep their stores.
_STORES_IN_RESULTS: Final = ("*/seed-*/exchange", "seed-*/exchange", "exchange")
_MOST_NAMED: Final = 3


def open_existing(name: str) -> Store:
    """Open a store that holds a run, and make nothing where there is none.

    Args:
        name: A path, or a URL of an object store.

    Raises:
        StoreError: If there is no run, such as in a results folder, or it cannot be read.
        SnapshotFormatError: If what is there is not a run of peers.
        ValueError: If it is a URL of another kind.
        ExtraMissingError: If what reads such a URL is not installed.
    """
    store = open_store(name, is_read_only=True)
    try:
        # One more than allowed, so that a longer document is refused rather than cut.
        Run.from_json(store.read(RUN_KEY, max_bytes=MAX_RUN_BYTES + 1), key=RUN_KEY)
    except (KeyMissingError, SnapshotFormatError) as error:
        if stores := _stores_in_results(name):
            raise StoreError(
                f"store must be one that peers publish in, got {store.describe()}, where results of "
                f"codistill train are. Of the stores in it name one: {stores}."
            ) from error
        if isinstance(error, SnapshotFormatError):
            raise
        raise StoreError(
            f"store must be one that peers publish in, got {store.describe()}, which has no {RUN_KEY}. "
            "Start a peer first; codistill train keeps its store in OUT/ARM/seed-N/exchange."
        ) from error
    return store


def _stores_in_results(name: str) -> str:
    """Return the stores that lie where codistill train puts them; empty if there are none."""
    found = [path.parent for where in _STORES_IN_RESULTS for path in Path(name).glob(f"{where}/{RUN_KEY}")]
    more = [f"and {len(found) - _MOST_NAMED} more"] if len(found) > _MOST_NAMED else []
    return ", ".join([*map(str, sorted(found)[:_MOST_NAMED]), *more])
