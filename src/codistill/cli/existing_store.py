"""Open a store to look at it, not to begin a run in it."""

from pathlib import Path

from codistill.errors import StoreError
from codistill.snapshots.keys import RUN_KEY
from codistill.snapshots.run import MAX_RUN_BYTES, Run
from codistill.stores import Store, open_store


def open_existing(path: str) -> Store:
    """Open a store that holds a run, and make nothing where there is none.

    Raises:
        StoreError: If there is no run.
        SnapshotFormatError: If what is there is not a run of peers, such as a results folder.
    """
    if not (Path(path).expanduser() / RUN_KEY).is_file():
        raise StoreError(
            f"store must be a folder that peers publish in, got {path!r}, which has no {RUN_KEY}. "
            "codistill train keeps it in OUT/ARM/seed-N/exchange."
        )
    store = open_store(path, is_read_only=True)
    Run.from_json(store.read(RUN_KEY, max_bytes=MAX_RUN_BYTES + 1), key=RUN_KEY)
    return store
