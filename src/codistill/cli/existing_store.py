"""Open a store to look at it, not to begin a run in it."""

from codistill.errors import KeyMissingError, StoreError
from codistill.snapshots.keys import RUN_KEY
from codistill.snapshots.run import MAX_RUN_BYTES, Run
from codistill.stores import Store, open_store


def open_existing(name: str) -> Store:
    """Open a store that holds a run, and make nothing where there is none.

    Args:
        name: A path, or a URL of an object store.

    Raises:
        StoreError: If there is no run, or it cannot be read.
        SnapshotFormatError: If what is there is not a run of peers, such as a results folder.
        ValueError: If it is a URL of another kind.
        ExtraMissingError: If what reads such a URL is not installed.
    """
    store = open_store(name, is_read_only=True)
    try:
        # One more than allowed, so that a longer document is refused rather than cut.
        content = store.read(RUN_KEY, max_bytes=MAX_RUN_BYTES + 1)
    except KeyMissingError as e:
        raise StoreError(
            f"store must be one that peers publish in, got {store.describe()}, which has no {RUN_KEY}. "
            "Start a peer first; codistill train keeps its store in OUT/ARM/seed-N/exchange."
        ) from e
    Run.from_json(content, key=RUN_KEY)
    return store
