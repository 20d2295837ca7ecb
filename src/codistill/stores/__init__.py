"""Where snapshots live: one interface of five verbs, and the stores that implement it.

A new store is one file with a subclass of `Store`, and passes `codistill.testing.StoreContract`.
"""

from codistill.stores.base import Store
from codistill.stores.directory import DirectoryStore
from codistill.stores.memory import MemoryStore
from codistill.stores.opening import open_store

__all__ = ["DirectoryStore", "MemoryStore", "Store", "open_store"]
