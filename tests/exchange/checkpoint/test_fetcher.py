import pytest
import torch
from torch import nn
from typing_extensions import override

from codistill.errors import (
    KeyMissingError,
    SnapshotError,
    SnapshotFormatError,
    SnapshotIntegrityError,
    StoreError,
)
from codistill.exchange.checkpoint.fetcher import Fetcher, load_snapshot
from codistill.exchange.checkpoint.lives import open_run
from codistill.exchange.checkpoint.sighting import Discovery
from codistill.fragments import Box
from codistill.stores.directory import DirectoryStore
from codistill.stores.memory import MemoryStore


def fetcher(store, *, run_id=None, max_bytes=None):
    return Fetcher(store, run_id=run_id, max_bytes=max_bytes)


def fetch(reader, peer="b"):
    return reader.tensors(reader.manifest(reader.pointer(peer).manifest))


def test_a_peer_that_has_published_nothing_has_no_pointer(store):
    assert fetcher(store).pointer("b") is None


def test_weights_are_those_that_were_published(store, publish, make_model):
    publish(store, "b", [3])
    tensors = fetch(fetcher(store))
    assert {name: float(tensor.flatten()[0]) for name, tensor in tensors.items()} == {
        "weight": 3.0,
        "bias": 3.0,
    }


def test_bytes_read_are_counted(store, publish):
    publish(store, "b", [0])
    reader = fetcher(store)
    fetch(reader)
    keys = [call.key for call in store.calls if call.verb == "read" and call.key.startswith("b/")]
    assert reader.bytes_read == sum(len(store.read(key, max_bytes=10**6)) for key in set(keys))


def test_bytes_of_a_refused_shard_are_counted(store, publish):
    publish(store, "b", [0])
    reader = fetcher(store)
    manifest = reader.manifest(reader.pointer("b").manifest)
    before = reader.bytes_read
    store.faults.flip_bit(key_contains="shard")
    with pytest.raises(SnapshotIntegrityError):
        reader.tensors(manifest)
    assert reader.bytes_read == before + manifest.total_bytes


@pytest.mark.parametrize("size_bytes", [0, 1, 100])
def test_a_truncated_shard_is_refused_with_peer_and_key(store, publish, size_bytes):
    publish(store, "b", [0])
    store.faults.truncate(size_bytes, key_contains="shard")
    with pytest.raises(SnapshotIntegrityError, match="peer 'b' is not what was published") as caught:
        fetch(fetcher(store))
    assert caught.value.peer == "b"
    assert caught.value.key == "b/snapshots/0-0/shard-00001-of-00001.safetensors"


def test_a_flipped_bit_in_a_shard_is_refused(store, publish):
    publish(store, "b", [0])
    store.faults.flip_bit(key_contains="shard")
    with pytest.raises(SnapshotIntegrityError, match="another digest"):
        fetch(fetcher(store))


@pytest.mark.parametrize("fault", ["flip_bit", "truncate"])
def test_a_damaged_manifest_is_refused(store, publish, fault):
    publish(store, "b", [0])
    arguments = [50] if fault == "truncate" else []
    getattr(store.faults, fault)(*arguments, key_contains="manifest")
    with pytest.raises(SnapshotIntegrityError, match="not the one that was referred to") as caught:
        fetch(fetcher(store))
    assert (caught.value.peer, caught.value.key) == ("b", "b/snapshots/0-0/manifest.json")


def test_a_manifest_that_has_grown_is_refused(store, publish):
    publish(store, "b", [0])
    key = "b/snapshots/0-0/manifest.json"
    store.write(key, store.read(key, max_bytes=10**6) + b" ")
    with pytest.raises(SnapshotIntegrityError, match="is larger"):
        fetch(fetcher(store))


def test_a_damaged_pointer_is_refused(store, publish):
    publish(store, "b", [0])
    store.faults.truncate(30, key_contains="latest")
    with pytest.raises(SnapshotFormatError, match=r"pointer at 'b/latest\.json'") as caught:
        fetcher(store).pointer("b")
    assert caught.value.peer == "b"


def test_a_pointer_that_is_far_too_large_is_not_read_to_its_end(store):
    store.write("b/latest.json", b" " * 10**6)
    reader = fetcher(store)
    with pytest.raises(SnapshotIntegrityError, match="must be at most 4096 bytes"):
        reader.pointer("b")
    assert reader.bytes_read <= 4097


def test_a_pointer_of_another_peer_is_refused(store, publish):
    publish(store, "b", [0])
    store.write("c/latest.json", store.read("b/latest.json", max_bytes=10**4))
    with pytest.raises(SnapshotFormatError, match="stored for, got 'b'"):
        fetcher(store).pointer("c")


def test_a_snapshot_of_another_run_is_refused(store, publish):
    publish(store, "b", [0], run_id="dead")
    with pytest.raises(
        SnapshotIntegrityError, match=r"must be of run c0ffee, got dead.*store of its own"
    ) as caught:
        fetcher(store, run_id="c0ffee").pointer("b")
    assert caught.value.peer == "b"


def test_a_manifest_of_another_run_is_refused(store, publish):
    publisher = publish(store, "b", [0], run_id="dead")
    with pytest.raises(SnapshotIntegrityError, match="must be of run c0ffee, got dead"):
        fetcher(store, run_id="c0ffee").manifest(publisher.previous)


def test_a_snapshot_that_is_too_large_is_refused_before_its_download(store, publish):
    publish(store, "b", [0])
    with pytest.raises(SnapshotError, match=r"must be at most 10 bytes, got \d+.*max_bytes") as caught:
        fetch(fetcher(store, max_bytes=10))
    assert (caught.value.peer, caught.value.step) == ("b", 0)
    assert store.count("read", key_contains="shard") == 0


def test_every_chunk_of_a_large_shard_is_read_and_verified(store, publish):
    model = nn.Linear(1500, 1500)  # 9 MB: two chunks
    publish(store, "b", [0], model=model)
    tensors = fetch(fetcher(store))
    assert torch.equal(tensors["weight"], model.weight)
    assert store.count("read", key_contains="shard") == 2
    key = "b/snapshots/0-0/shard-00001-of-00001.safetensors"
    content = bytearray(store.read(key, max_bytes=10**8))
    content[-1] ^= 1
    store.write(key, bytes(content))
    with pytest.raises(SnapshotIntegrityError, match="chunk 1 at byte 8388608"):
        fetch(fetcher(store))


def test_load_snapshot_gives_a_state_that_loads_strictly(store, publish):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    model(torch.randn(8, 4))
    publish(store, "b", [12], model=model)
    state, info = load_snapshot(store, "b")
    fresh = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    fresh.load_state_dict(state, strict=True)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in fresh.state_dict().items())
    assert (info.peer, info.step, info.samples) == ("b", 12, 120)


def test_load_snapshot_gives_tied_weights_under_both_names(store, publish):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(6, 4)
            self.decoder = nn.Linear(4, 6, bias=False)
            self.decoder.weight = self.embedding.weight

    model, fresh = Tied(), Tied()
    publish(store, "b", [0], model=model)
    state, info = load_snapshot(store, "b")
    fresh.load_state_dict(state, strict=True)
    assert torch.equal(fresh.embedding.weight, model.decoder.weight)
    assert fresh.decoder.weight is fresh.embedding.weight
    assert info.size_bytes < 2 * model.embedding.weight.nbytes


def test_load_snapshot_returns_the_newest(store, publish):
    publish(store, "b", [1, 2])
    publish(store, "b", [1], incarnation=1)
    assert load_snapshot(store, "b")[1].incarnation == 1


def test_load_snapshot_reads_a_folder(tmp_path, publish):
    publish(DirectoryStore(tmp_path), "b", [3])
    assert load_snapshot(tmp_path, "b")[1].step == 3
    assert load_snapshot(str(tmp_path), "b")[1].step == 3


def test_load_snapshot_of_an_unknown_peer_names_those_there_are(store, publish):
    publish(store, "a", [0])
    publish(store, "b", [0])
    with pytest.raises(
        KeyMissingError, match=r"peer must be one that has published, got 'c'\..*: a, b\.$"
    ) as caught:
        load_snapshot(store, "c")
    assert (caught.value.peer, caught.value.key) == ("c", "c/latest.json")


def test_load_snapshot_from_an_empty_store_says_so():
    with pytest.raises(KeyMissingError, match="none"):
        load_snapshot(MemoryStore(), "a")


def test_load_snapshot_refuses_damage(store, publish):
    publish(store, "b", [0])
    store.faults.flip_bit(key_contains="shard")
    with pytest.raises(SnapshotIntegrityError):
        load_snapshot(store, "b")


class Busy(MemoryStore):
    """Something happens in it just before a key is read for the first time."""

    def __init__(self):
        super().__init__()
        self.happens_before_reading = {}

    @override
    def _read(self, key, *, max_bytes, start):
        self.happens_before_reading.pop(key, lambda: None)()
        return super()._read(key, max_bytes=max_bytes, start=start)


def test_load_snapshot_survives_a_peer_that_replaces_what_is_being_read(publish):
    busy = Busy()
    publish(busy, "b", [1])

    def replace():
        publish(busy, "b", [2], incarnation=1)
        busy.delete("b/snapshots/0-0/manifest.json")

    busy.happens_before_reading["b/snapshots/0-0/manifest.json"] = replace
    assert load_snapshot(busy, "b")[1].step == 2


def test_a_store_that_fails_is_a_store_error(store, publish):
    publish(store, "b", [0])
    open_run(store)
    store.faults.fail("read")
    with pytest.raises(StoreError):
        load_snapshot(store, "b")


# Boxes


def discovery_of(reader, peer="b"):
    reference = reader.pointer(peer).manifest
    return Discovery(manifest=reader.manifest(reference), reference=reference, first_seen_step=7)


@pytest.fixture
def large(store, publish):
    """Nine megabytes of weights, which are two chunks, and who reads them."""
    model = nn.Linear(1500, 1500)
    publish(store, "b", [3], model=model)
    return model, fetcher(store)


def test_boxes_are_read_by_chunks(store, large):
    model, reader = large
    found = discovery_of(reader)
    before = reader.bytes_read
    arrival = reader.fetch_boxes(found, {"weight": Box((10, 20), (30, 40)), "bias": Box((5,), (6,))})
    assert torch.equal(arrival.tensors["weight"], model.weight[10:40, 20:60])
    assert torch.equal(arrival.tensors["bias"], model.bias[5:11])
    assert arrival.is_part
    assert (arrival.manifest, arrival.reference) == (found.manifest, found.reference)
    assert arrival.first_seen_step == 7
    assert store.count("read", key_contains="shard") == 1
    assert reader.bytes_read - before == 8 * 2**20


def test_the_last_chunk_is_shorter(store, large):
    model, reader = large
    before = reader.bytes_read
    found = discovery_of(reader)
    documents = reader.bytes_read - before
    arrival = reader.fetch_boxes(found, {"weight": Box((1490, 0), (10, 1500))})
    assert torch.equal(arrival.tensors["weight"], model.weight[1490:])
    assert reader.bytes_read - before - documents == found.manifest.total_bytes - 8 * 2**20


def test_a_damaged_chunk_is_refused_by_whom_it_concerns(store, large):
    _, reader = large
    found = discovery_of(reader)
    key = "b/snapshots/0-0/shard-00001-of-00001.safetensors"
    content = bytearray(store.read(key, max_bytes=10**8))
    content[-1] ^= 1
    store.write(key, bytes(content))
    reader.fetch_boxes(found, {"weight": Box((0, 0), (2, 1500))})
    with pytest.raises(SnapshotIntegrityError, match="chunk 1 at byte 8388608") as caught:
        reader.fetch_boxes(found, {"weight": Box((1499, 0), (1, 1500))})
    assert (caught.value.peer, caught.value.key) == ("b", key)


@pytest.mark.parametrize("size_bytes", [0, 100])
def test_a_truncated_chunk_is_refused(store, publish, size_bytes):
    publish(store, "b", [0])
    reader = fetcher(store)
    found = discovery_of(reader)
    store.faults.truncate(size_bytes, key_contains="shard")
    with pytest.raises(SnapshotIntegrityError, match="another digest"):
        reader.fetch_boxes(found, {"weight": Box((0, 0), (1, 4))})


def test_a_snapshot_that_is_too_large_is_refused_though_only_a_part_is_wanted(store, publish):
    publish(store, "b", [0])
    reader = fetcher(store)
    found = discovery_of(reader)
    small = fetcher(store, max_bytes=10)
    with pytest.raises(SnapshotError, match="must be at most 10 bytes"):
        small.fetch_boxes(found, {"bias": Box((0,), (1,))})
    assert store.count("read", key_contains="shard") == 0


def test_reading_boxes_can_be_given_up(store, publish):
    publish(store, "b", [0])
    reader = fetcher(store)
    found = discovery_of(reader)
    reader.give_up()
    with pytest.raises(StoreError, match="has been given up"):
        reader.fetch_boxes(found, {"bias": Box((0,), (1,))})
