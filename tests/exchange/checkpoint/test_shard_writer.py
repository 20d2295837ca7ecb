import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from codistill.errors import StoreError
from codistill.exchange.checkpoint.shard_writer import ShardWriter
from codistill.parallel.group import PeerRanks
from codistill.parallel.weights import copy_into
from codistill.snapshots.written_shard import WrittenShard, merge


def divided(rank, *sizes):
    """Return a model as one rank of a world that is not there holds it; its rows are 0, 1 and 2."""
    mesh = init_device_mesh(
        "cpu", sizes, mesh_dim_names=[f"{rank} of {sizes}, {dim}" for dim in range(len(sizes))]
    )
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.arange(3.0)[:, None].expand(3, 2))
        model.bias.copy_(torch.arange(3.0))
    model.register_buffer("steps", torch.tensor(5))
    return fully_shard(model, mesh=mesh)


def writer_of(store, rank, writers, *sizes, codec="exact"):
    """Return what one rank writes with, and its model."""
    ranks = int(torch.tensor(sizes).prod())
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        model = divided(rank, *sizes)
        return (
            ShardWriter(store, model, peer="a", incarnation=1, codec=codec, rank=rank, writers=writers),
            model,
        )
    finally:
        dist.destroy_process_group()


def test_ranks_write_shards_that_together_are_the_model(store):
    written = []
    for rank in range(3):
        writer, _ = writer_of(store, rank, (0, 1, 2), 3)
        writer.stage()
        written.append(WrittenShard.from_json(writer.write(7)))
        assert writer.size_bytes == written[-1].shard.size_bytes
    assert store.list_names("a/snapshots/1-7", limit=10) == [
        f"shard-0000{index}-of-00003.safetensors" for index in (1, 2, 3)
    ]
    tensors, aliases = merge(written)
    assert aliases == {}
    assert {entry.name: [part.offsets[:1] for part in entry.parts] for entry in tensors} == {
        "bias": [(0,), (1,), (2,)],
        "steps": [()],
        "weight": [(0,), (1,), (2,)],
    }


def test_a_rank_without_a_part_writes_nothing(store):
    writer, _ = writer_of(store, 3, (0, 1, 2), 4)
    writer.stage()
    assert writer.write(0) == b""
    assert (writer.size_bytes, writer.count) == (0, 3)
    assert store.count("write") == 0


def test_shards_are_numbered_by_those_that_write(store):
    """Of two replicas of two ranks each, those of the second write nothing."""
    for rank in (0, 1):
        writer, _ = writer_of(store, rank, (0, 1), 2, 2)
        writer.stage()
        written = WrittenShard.from_json(writer.write(0))
        assert written.shard.name == f"shard-0000{rank + 1}-of-00002.safetensors"
        assert {part.part.shard for part in written.parts} == {rank}
    for rank in (2, 3):
        writer, _ = writer_of(store, rank, (0, 1), 2, 2)
        writer.stage()
        assert writer.write(0) == b""


def test_the_only_writer_has_the_first_shard_whatever_its_rank(store):
    writer, _ = writer_of(store, 1, (1,), 2)
    writer.stage()
    written = WrittenShard.from_json(writer.write(0))
    assert written.shard.name == "shard-00001-of-00001.safetensors"
    assert {part.part.shard for part in written.parts} == {0}


def test_what_was_staged_is_written_whatever_becomes_of_the_model(store):
    writer, model = writer_of(store, 1, (0, 1), 2)
    writer.stage()
    copy_into(
        model, {"weight": torch.full((3, 2), 9.0), "bias": torch.full((3,), 9.0), "steps": torch.tensor(9)}
    )
    written = WrittenShard.from_json(writer.write(0))
    content = store.read(f"a/snapshots/1-0/{written.shard.name}", max_bytes=10**6)
    parts = {part.name: content[part.part.start : part.part.end] for part in written.parts}
    assert torch.frombuffer(bytearray(parts["weight"]), dtype=torch.float32).tolist() == [2.0, 2.0]


def test_a_store_that_fails_raises(store):
    writer, _ = writer_of(store, 0, (0, 1), 2)
    writer.stage()
    store.faults.fail("write", times=1)
    with pytest.raises(StoreError):
        writer.write(0)
    assert writer.write(1) != b""


def test_ranks_find_out_who_writes(store, monkeypatch):
    """What all ranks say is put in the place of a meeting that is not there."""
    asked = []

    def meet(ranks, numbers):
        asked.append(list(numbers))
        return [1, 1, 1, 0]

    monkeypatch.setattr(PeerRanks, "maximum", meet)
    for rank in range(4):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=4)
        try:
            writer = ShardWriter.open(
                store, divided(rank, 4), peer="a", incarnation=0, codec="exact", ranks=PeerRanks()
            )
        finally:
            dist.destroy_process_group()
        assert writer.count == 3
        assert (writer.size_bytes > 0) == (rank < 3)
    assert asked == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
