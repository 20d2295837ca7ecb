import pytest

from codistill.exchange.checkpoint import stored_snapshot
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.stored_snapshot import read_stored
from codistill.stores.memory import MemoryStore


def stored(store, names):
    return read_stored(store, Fetcher(store, run_id=None, max_bytes=None), "a", (0, 3), names)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 100, 1023, 1024, 1025])
def test_sizes_are_those_of_the_values(monkeypatch, size):
    monkeypatch.setattr(stored_snapshot, "CHUNK_BYTES", 4)
    store = MemoryStore()
    store.write("a/snapshots/0-3/x", b"x" * size)
    assert stored(store, ["x"]).sizes == {"a/snapshots/0-3/x": size}


def test_large_values_are_measured_without_being_read(monkeypatch):
    monkeypatch.setattr(stored_snapshot, "CHUNK_BYTES", 4)
    read_bytes = []

    class Counting(MemoryStore):
        def _read(self, key, *, max_bytes, start):
            content = super()._read(key, max_bytes=max_bytes, start=start)
            read_bytes.append(len(content))
            return content

    store = Counting()
    store.write("a/snapshots/0-3/x", b"x" * 100_000)
    assert stored(store, ["x"]).size_bytes == 100_000
    assert sum(read_bytes) < 100


def test_a_folder_that_has_gone_meanwhile_is_none():
    assert stored(MemoryStore(), []) is None
    assert stored(MemoryStore(), ["shard-00001-of-00001.safetensors"]) is None
    assert stored(MemoryStore(), ["manifest.json"]) is None


def test_names_that_no_store_could_read_are_passed_over():
    store = MemoryStore()
    store.write("a/snapshots/0-3/x", b"x")
    assert stored(store, ["x", "not a key", "folder"]).sizes == {"a/snapshots/0-3/x": 1}
