import pytest
import torch
from torch import nn
from typing_extensions import override

from codistill.errors import SnapshotIntegrityError, StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.fetcher import Fetcher, load_snapshot
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.publisher import Publisher, SnapshotOptions
from codistill.fragments import Box, Fragment
from codistill.parallel.weights import named_tensors
from codistill.snapshots.codec import encode
from codistill.snapshots.keys import shard_key
from codistill.snapshots.pointer import Pointer
from codistill.snapshots.signing import SigningKey
from codistill.snapshots.staging import Staging
from codistill.stores.memory import MemoryStore
from codistill.testing import FaultyStore

SHARD = "shard-00001-of-00001.safetensors"


def life(incarnation=0):
    return Life(
        run_id="c0ffee", peer="a", incarnation=incarnation, interval_steps=5, metadata={"arch": "mlp"}
    )


def weights(value=0.0):
    return encode({"weight": torch.full((2, 3), value), "steps": torch.tensor(int(value))})


def written(store):
    return [call.key for call in store.calls if call.verb == "write"]


def test_shards_come_before_the_manifest_and_the_pointer_comes_last(store):
    Publisher(store, life(), keep=None).publish(weights(), Progress(), finished=False)
    assert written(store) == [f"a/snapshots/0-0/{SHARD}", "a/snapshots/0-0/manifest.json", "a/latest.json"]


def test_what_is_published_can_be_read(store):
    publisher = Publisher(store, life(), keep=None)
    publisher.publish(weights(2.0), Progress(step=10, samples=640, task_loss=0.5), finished=True)
    state, info = load_snapshot(store, "a")
    assert torch.equal(state["weight"], torch.full((2, 3), 2.0))
    assert state["steps"].dtype == torch.int64
    assert (info.peer, info.incarnation, info.sequence, info.step, info.samples) == ("a", 0, 0, 10, 640)
    assert (info.task_loss, info.interval_steps, info.finished) == (0.5, 5, True)
    assert info.metadata == {"arch": "mlp"}


def test_a_loss_that_is_not_finite_is_published_as_unknown(store):
    Publisher(store, life(), keep=None).publish(weights(), Progress(task_loss=float("nan")), finished=False)
    assert load_snapshot(store, "a")[1].task_loss is None


def test_publish_returns_what_it_wrote(store):
    size = Publisher(store, life(), keep=None).publish(weights(), Progress(), finished=False)
    assert size == sum(len(store.read(key, max_bytes=10**6)) for key in written(store))


@pytest.mark.parametrize("broken", [SHARD, "manifest.json", "latest.json"])
def test_a_publish_that_fails_leaves_the_one_before(store, broken):
    publisher = Publisher(store, life(), keep=None)
    publisher.publish(weights(1.0), Progress(step=5), finished=False)
    store.faults.fail("write", times=1, key_contains=broken)
    with pytest.raises(StoreError):
        publisher.publish(weights(2.0), Progress(step=10), finished=False)
    assert load_snapshot(store, "a")[1].step == 5
    publisher.publish(weights(3.0), Progress(step=15), finished=False)
    state, info = load_snapshot(store, "a")
    assert info.step == 15
    assert torch.equal(state["weight"], torch.full((2, 3), 3.0))


def test_previous_leads_back_to_the_first_snapshot(store):
    publisher = Publisher(store, life(), keep=None)
    for step in (0, 5, 10):
        publisher.publish(weights(step), Progress(step=step), finished=False)
    fetcher = Fetcher(store, run_id="c0ffee", max_bytes=None)
    steps, reference = [], fetcher.pointer("a").manifest
    while reference is not None:
        manifest = fetcher.manifest(reference)
        steps.append(manifest.step)
        reference = manifest.previous
    assert steps == [10, 5, 0]


def test_previous_leads_into_the_life_before(store):
    first = Publisher(store, life(), keep=None)
    first.publish(weights(), Progress(step=5), finished=False)
    second = Publisher(store, life(1), keep=None, previous=first.previous)
    second.publish(weights(), Progress(step=5), finished=False)
    manifest = Fetcher(store, run_id=None, max_bytes=None).manifest(second.previous)
    assert manifest.order == (1, 0)
    assert manifest.previous == first.previous


def test_keep_deletes_the_oldest(store):
    publisher = Publisher(store, life(), keep=2)
    for step in range(4):
        publisher.publish(weights(step), Progress(step=step), finished=False)
    assert store.list_names("a/snapshots", limit=10) == ["0-2", "0-3"]
    assert publisher.kept == ((0, 2), (0, 3))


def test_the_manifest_is_deleted_before_the_shard(store):
    publisher = Publisher(store, life(), keep=1)
    for step in range(2):
        publisher.publish(weights(step), Progress(step=step), finished=False)
    deleted = [call.key for call in store.calls if call.verb == "delete"]
    assert deleted == ["a/snapshots/0-0/manifest.json", f"a/snapshots/0-0/{SHARD}"]


def test_keep_none_deletes_nothing(store):
    publisher = Publisher(store, life(), keep=None)
    for step in range(5):
        publisher.publish(weights(step), Progress(step=step), finished=False)
    assert len(store.list_names("a/snapshots", limit=10)) == 5
    assert store.count("delete") == 0


def test_keep_counts_those_of_an_earlier_life(store):
    first = Publisher(store, life(), keep=2)
    for step in range(2):
        first.publish(weights(step), Progress(step=step), finished=False)
    second = Publisher(store, life(1), keep=2, previous=first.previous, kept=first.kept)
    second.publish(weights(), Progress(), finished=False)
    assert store.list_names("a/snapshots", limit=10) == ["0-1", "1-0"]


def test_a_delete_that_fails_does_not_undo_the_publish(store):
    publisher = Publisher(store, life(), keep=1)
    publisher.publish(weights(1.0), Progress(step=1), finished=False)
    store.faults.fail("delete", times=1)
    assert publisher.publish(weights(2.0), Progress(step=2), finished=False) > 0
    publisher.publish(weights(3.0), Progress(step=3), finished=False)
    assert store.list_names("a/snapshots", limit=10) == ["0-2"]


class LostAnswers(MemoryStore):
    """Does what it is asked, and sometimes reports an error all the same, as the contract allows."""

    loses_answer_to = None

    @override
    def _write(self, key, content):
        super()._write(key, content)
        if key == self.loses_answer_to:
            raise StoreError("The connection was lost.", key=key)


def test_a_snapshot_that_may_have_been_seen_is_never_written_again():
    store = LostAnswers()
    publisher = Publisher(store, life(), keep=None)
    store.loses_answer_to = "a/latest.json"
    with pytest.raises(StoreError):
        publisher.publish(weights(1.0), Progress(step=5), finished=False)
    store.loses_answer_to = None
    fetcher = Fetcher(store, run_id="c0ffee", max_bytes=None)
    seen = fetcher.pointer("a")
    publisher.publish(weights(2.0), Progress(step=10), finished=False)
    assert fetcher.pointer("a").order > seen.order
    assert fetcher.manifest(seen.manifest).step == 5


def test_digests_of_the_last_four_snapshots_are_remembered(store):
    publisher = Publisher(store, life(), keep=None)
    for step in range(6):
        publisher.publish(weights(step), Progress(step=step), finished=False)
    assert list(publisher.digests) == [2, 3, 4, 5]
    assert len(set(publisher.digests.values())) == 4


def test_equal_weights_have_equal_digests(store):
    publishers = [Publisher(store, life(incarnation), keep=None) for incarnation in range(2)]
    for publisher in publishers:
        publisher.publish(weights(1.0), Progress(), finished=False)
    assert publishers[0].digests == publishers[1].digests


def test_integers_booleans_and_half_precision_keep_every_bit(store):
    model = nn.BatchNorm1d(3)
    model.register_buffer("mask", torch.tensor([True, False]))
    model.register_buffer("ids", torch.tensor([2**62 + 1]))
    model.register_buffer("scale", torch.tensor([1.0009765625], dtype=torch.float16))
    model.num_batches_tracked.fill_(7)
    Publisher(store, life(), keep=None).publish(encode(named_tensors(model)), Progress(), finished=False)
    state, _ = load_snapshot(store, "a")
    for name, tensor in model.state_dict().items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "zip"}, "codec must be one of 'exact', .*got 'zip'"),
        ({"keep": 0}, "keep must be >= 1, got 0"),
        ({"max_bytes": 0}, "max_bytes must be >= 1, got 0"),
    ],
)
def test_wrong_values_of_snapshot_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SnapshotOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "2"}, "keep must"),
        ({"keep": 1.5}, "keep must"),
        ({"keep": True}, "keep must"),
        ({"max_bytes": "1 GB"}, "max_bytes must"),
        ({"publish_from": {"weight": 1}}, "publish_from must"),
        ({"metadata": 5}, "metadata must be a mapping, got int"),
        ({"metadata": {"when": object()}}, r"metadata\['when'\] must"),
    ],
)
def test_wrong_types_of_snapshot_options_are_named(options, message):
    with pytest.raises(TypeError, match=message):
        SnapshotOptions(**options)


@pytest.mark.parametrize("document", ["shard", "manifest"])
def test_a_publish_that_fails_before_its_pointer_leaves_nothing_behind(document):
    store = FaultyStore(MemoryStore())
    publisher = Publisher(store, life(), keep=2)
    publisher.publish(weights(), Progress(), finished=False)
    store.faults.fail("write", times=3, key_contains=document)
    for _ in range(3):
        with pytest.raises(StoreError):
            publisher.publish(weights(), Progress(step=1), finished=False)
    assert store.list_names("a/snapshots", limit=10) == ["0-0"]


def test_a_snapshot_whose_pointer_failed_is_deleted_like_any_other():
    store = FaultyStore(MemoryStore())
    publisher = Publisher(store, life(), keep=2)
    store.faults.fail("write", times=1, key_contains="latest")
    with pytest.raises(StoreError):
        publisher.publish(weights(), Progress(), finished=False)
    assert store.list_names("a/snapshots", limit=10) == ["0-0"]  # somebody may have been pointed to it
    for step in (1, 2):
        publisher.publish(weights(), Progress(step=step), finished=False)
    assert store.list_names("a/snapshots", limit=10) == ["0-1", "0-2"]


def test_what_was_not_finished_is_deleted_as_far_as_the_store_allows(store):
    first = Publisher(store, life(), keep=None)
    for step in range(3):
        first.publish(weights(step), Progress(step=step), finished=False)
    second = Publisher(store, life(1), keep=2, kept=first.kept)
    second.delete_unfinished(after=(0, 1))
    assert second.kept == ((0, 0), (0, 1))
    assert store.list_names("a/snapshots", limit=10) == ["0-0", "0-1"]
    store.faults.fail("delete", times=1)
    second.delete_unfinished(after=None)
    assert second.kept == ((0, 0), (0, 1))
    second.delete_unfinished(after=None)
    assert second.kept == ()
    assert store.list_names("a/snapshots", limit=10) == []


def test_nothing_is_deleted_that_the_pointer_leads_to_or_came_before(store):
    first = Publisher(store, life(), keep=None)
    first.publish(weights(), Progress(), finished=False)
    second = Publisher(store, life(1), keep=2, kept=first.kept)
    second.delete_unfinished(after=(0, 0))
    assert store.count("delete") == 0


def test_every_pointer_is_signed(store):
    key = SigningKey(secret=b"k" * 32)
    publisher = Publisher(store, life(), keep=None, signing_key=key)
    publisher.publish(weights(), Progress(), finished=False)
    document = store.read("a/latest.json", max_bytes=10**4)
    assert Pointer.from_json(document, key="a/latest.json", signing_key=key).order == (0, 0)
    other = SigningKey(secret=b"o" * 32)
    with pytest.raises(SnapshotIntegrityError):
        Pointer.from_json(document, key="a/latest.json", signing_key=other)


def test_the_manifest_names_the_codec(store):
    publisher = Publisher(store, life(), codec="bfloat16", keep=None)
    publisher.publish(encode({"weight": torch.ones(2, 3)}, "bfloat16"), Progress(), finished=False)
    state, info = load_snapshot(store, "a")
    assert (info.codec, state["weight"].dtype) == ("bfloat16", torch.float32)


# Snapshots of which every rank has written its own shard


def write_shards(store, ranks, *, incarnation=0, sequence=0, value=0.0):
    """Write a tensor of as many rows as ranks, one row a rank; return what the ranks say of it."""
    said = []
    for rank in range(ranks):
        fragment = Fragment(torch.full((1, 2), value + rank), Box((rank, 0), (1, 2)), (ranks, 2))
        staging = Staging({"weight": fragment}, index=rank + 1, count=ranks)
        staging.fill({"weight": fragment})
        shard, content = staging.encode_shard()
        store.write(shard_key("a", incarnation, sequence, shard.shard.name), content)
        said.append(shard)
    return said


def publish_shards(publisher, store, ranks, *, sequence, **changes):
    said = write_shards(store, ranks, incarnation=publisher.life.incarnation, sequence=sequence, **changes)
    return publisher.publish_written(said, Progress(step=sequence), sequence=sequence, finished=False)


def test_shards_of_ranks_are_pointed_to_as_one_snapshot(store):
    publisher = Publisher(store, life(), keep=None)
    count = publish_shards(publisher, store, 3, sequence=4, value=5.0)
    assert written(store)[-2:] == ["a/snapshots/0-4/manifest.json", "a/latest.json"]
    assert count == sum(len(store.read(key, max_bytes=10**6)) for key in written(store)[-2:])
    state, info = load_snapshot(store, "a")
    assert state["weight"].tolist() == [[5.0, 5.0], [6.0, 6.0], [7.0, 7.0]]
    assert (info.sequence, info.step) == (4, 4)
    assert publisher.kept == ((0, 4),)
    assert list(publisher.digests) == [4]


def test_a_number_is_never_used_again_after_that_of_ranks(store):
    publisher = Publisher(store, life(), keep=None)
    publish_shards(publisher, store, 2, sequence=4)
    publisher.publish(weights(), Progress(), finished=False)
    assert publisher.kept == ((0, 4), (0, 5))


@pytest.mark.parametrize("broken", ["manifest", "latest"])
def test_shards_of_ranks_go_with_a_manifest_that_fails_and_stay_with_a_pointer_that_may_not_have(
    store, broken
):
    publisher = Publisher(store, life(), keep=None)
    said = write_shards(store, 2)
    store.faults.fail("write", times=1, key_contains=broken)
    with pytest.raises(StoreError):
        publisher.publish_written(said, Progress(), sequence=0, finished=False)
    assert store.list_names("a/snapshots", limit=10) == ([] if broken == "manifest" else ["0-0"])


def test_what_ranks_have_written_is_deleted_when_they_give_up(store):
    publisher = Publisher(store, life(), keep=None)
    publish_shards(publisher, store, 3, sequence=0)
    write_shards(store, 3, sequence=1)
    store.delete("a/snapshots/0-1/shard-00002-of-00003.safetensors")
    publisher.abandon(1, shards=3)
    assert store.list_names("a/snapshots", limit=10) == ["0-0"]
    assert load_snapshot(store, "a")[1].sequence == 0
    store.faults.fail("delete")
    write_shards(store, 3, sequence=2)
    publisher.abandon(2, shards=3)
    assert store.list_names("a/snapshots", limit=10) == ["0-0", "0-2"]


def test_keep_deletes_all_shards_also_those_of_a_life_with_other_ranks(store):
    first = Publisher(store, life(), keep=None)
    for sequence in range(3):
        publish_shards(first, store, 4, sequence=sequence)
    second = Publisher(store, life(1), keep=2, previous=first.previous, kept=first.kept)
    publish_shards(second, store, 2, sequence=0)
    assert store.list_names("a/snapshots", limit=10) == ["0-2", "1-0"]
    publish_shards(second, store, 2, sequence=1)
    publish_shards(second, store, 2, sequence=2)
    assert store.list_names("a/snapshots", limit=10) == ["1-1", "1-2"]
    # Every single value, not the folder's name alone.
    deleted = [call.key for call in store.calls if call.verb == "delete"]
    assert sum(key.startswith("a/snapshots/0-") for key in deleted) == 3 * (1 + 4)
    assert sum(key.startswith("a/snapshots/1-") for key in deleted) == 1 + 2


def test_what_an_earlier_life_of_other_ranks_did_not_finish_is_deleted(store):
    first = Publisher(store, life(), keep=None)
    publish_shards(first, store, 4, sequence=0)
    write_shards(store, 4, sequence=1)
    second = Publisher(store, life(1), keep=2, kept=((0, 0), (0, 1)))
    second.delete_unfinished(after=(0, 0))
    assert store.list_names("a/snapshots", limit=10) == ["0-0"]
    assert load_snapshot(store, "a")[1].sequence == 0


def test_shards_are_not_pointed_to_under_a_name_that_has_been_taken_over(store):
    publisher = Publisher(store, life(), keep=None, is_still_ours=lambda: False)
    assert publish_shards(publisher, store, 2, sequence=0) == 0
    assert store.list_names("a/snapshots", limit=10) == []
    assert store.count("write", key_contains="latest") == 0
