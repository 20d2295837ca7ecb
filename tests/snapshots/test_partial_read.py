import itertools
import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codistill.errors import SnapshotFormatError, SnapshotIntegrityError
from codistill.fragments import Box, Fragment
from codistill.snapshots import partial_read, shards
from codistill.snapshots.codec import CODECS, decode, verify_chunk
from codistill.snapshots.fingerprint import fingerprint
from codistill.snapshots.manifest import Manifest
from codistill.snapshots.partial_read import PartialRead
from codistill.snapshots.staging import Staging
from codistill.snapshots.tensors import DTYPES
from codistill.snapshots.written_shard import WrittenShard, merge

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# Those of 1024 elements and more are rounded by the codecs that round.
SHAPES = [(), (0,), (3, 0, 2), (1,), (5,), (3, 4), (2, 3, 5), (40, 33), (9, 11, 13), (2100,)]


@contextmanager
def chunks_of(size_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "CHUNK_BYTES", size_bytes)
        patch.setattr(partial_read, "CHUNK_BYTES", size_bytes)
        yield


def write(ranks, codec="exact"):
    """Return the manifest of what ranks publish, each its fragments by name, and what is in their files."""
    written, contents = [], []
    for index, fragments in enumerate(ranks, start=1):
        staging = Staging(fragments, codec=codec, index=index, count=len(ranks))
        staging.fill(fragments)
        shard, content = staging.encode_shard()
        written.append(WrittenShard.from_json(shard.to_json()))
        contents.append(bytes(content))
    tensors, aliases = merge(written)
    found = {entry.name: entry.shape for entry in tensors}
    manifest = Manifest(
        run_id="c0ffee",
        peer="a",
        incarnation=1,
        sequence=2,
        step=300,
        samples=9600,
        task_loss=0.5,
        interval_steps=50,
        codec=codec,
        finished=False,
        metadata={},
        fingerprint=fingerprint(found | {alias: found[name] for alias, name in aliases.items()}),
        tensors=tensors,
        aliases=aliases,
        shards=tuple(one.shard for one in written),
        previous=None,
    )
    return Manifest.from_json(manifest.to_json(), key=manifest.key), contents


def cut(tensor, box):
    """Return what a rank holds of a tensor, as torch gives it: contiguous, in memory of its own."""
    whole = Box.whole(tuple(tensor.shape))
    return Fragment(tensor[box.within(whole)].clone(), box, tuple(tensor.shape))


def by_rows(state, counts):
    """Return the fragments of ranks that hold so many rows each."""
    ranks = []
    ends = list(itertools.accumulate(counts))
    for start, end in zip([0, *ends], ends, strict=False):
        ranks.append(
            {
                name: cut(tensor, Box((start, *(0,) * (tensor.dim() - 1)), (end - start, *tensor.shape[1:])))
                for name, tensor in state.items()
            }
        )
    return ranks


def read(manifest, contents, boxes):
    """Return boxes that were read by chunks, every one verified."""
    reading = PartialRead(manifest, boxes)
    for shard, chunk in reading.chunks:
        start = chunk * shards.CHUNK_BYTES
        content = memoryview(contents[shard])[start : start + shards.CHUNK_BYTES]
        verify_chunk(manifest.shards[shard], chunk, content)
        reading.take(shard, chunk, content)
    return reading.decode()


def bits(tensor):
    return tensor.shape, tensor.dtype, tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def a_tensor(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    return (torch.randn(shape, generator=generator) * 50).abs().to(dtype)


@st.composite
def partitions(draw, shape, ranks):
    """Return for every rank the box it holds, or None; together they are all of the tensor."""
    found = [Box.whole(shape)]
    for _ in range(draw(st.integers(0, ranks - 1)) if math.prod(shape) else 0):
        box = found.pop(draw(st.integers(0, len(found) - 1)))
        dims = [dim for dim, size in enumerate(box.shape) if size > 1]
        if not dims:
            found.append(box)
            continue
        dim = draw(st.sampled_from(dims))
        size = draw(st.integers(1, box.shape[dim] - 1))
        for offset, part in ((0, size), (size, box.shape[dim] - size)):
            starts, sizes = list(box.offsets), list(box.shape)
            starts[dim] += offset
            sizes[dim] = part
            found.append(Box(tuple(starts), tuple(sizes)))
    return draw(st.permutations([*found, *[None] * (ranks - len(found))]))


@st.composite
def boxes_of(draw, shape):
    starts = [draw(st.integers(0, size)) for size in shape]
    sizes = [draw(st.integers(0, size - start)) for size, start in zip(shape, starts, strict=True)]
    return draw(st.sampled_from([Box(tuple(starts), tuple(sizes)), Box.whole(shape)]))


@st.composite
def snapshots(draw):
    """Return what ranks publish, and boxes to read of it by name."""
    count = draw(st.integers(1, 4))
    ranks, boxes = [{} for _ in range(count)], {}
    for index in range(draw(st.integers(1, 4))):
        shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(list(DTYPES.values())))
        tensor = a_tensor(shape, dtype, index)
        is_tied = tensor.numel() > 0 and draw(st.booleans())
        names = [f"layer.{index}", f"tied.{index}"][: 2 if is_tied else 1]
        for rank, box in enumerate(draw(partitions(shape, count))):
            if box is not None:
                ranks[rank] |= dict.fromkeys(names, cut(tensor, box))
        boxes |= {name: draw(boxes_of(shape)) for name in names}
    return [rank for rank in ranks if rank], boxes


@SETTINGS
@given(
    drawn=snapshots(),
    codec=st.sampled_from(CODECS),
    chunk_bytes=st.sampled_from([1, 7, 64, 1000, 8 * 2**20]),
)
def test_any_box_of_any_division_is_a_slice_of_the_decoded_whole(drawn, codec, chunk_bytes):
    ranks, boxes = drawn
    if (
        chunk_bytes < 64
        and sum(fragment.values.nbytes for rank in ranks for fragment in rank.values()) > 5000
    ):
        chunk_bytes = 64
    with chunks_of(chunk_bytes):
        manifest, contents = write(ranks, codec)
        whole = decode(manifest, contents)
        found = read(manifest, contents, boxes)
    assert found.keys() == boxes.keys()
    for name, box in boxes.items():
        assert bits(found[name]) == bits(whole[name][box.within(Box.whole(tuple(whole[name].shape)))])


@pytest.mark.parametrize("codec", CODECS)
def test_the_decoded_whole_of_ranks_is_what_one_rank_would_have_published(codec):
    """But for int8, whose blocks begin with every part."""
    state = {"weight": a_tensor((40, 33), torch.float32, 0), "small": a_tensor((4, 5), torch.float64, 1)}
    ranks = by_rows({"weight": state["weight"]}, [13, 0, 27])
    ranks[0]["small"] = Fragment.whole(state["small"])
    ranks = [rank for rank in ranks if rank["weight"].values.numel()]
    whole = decode(*write(ranks, codec))
    alone = decode(*write([state], codec))
    assert bits(whole["small"]) == bits(state["small"])
    if codec == "int8":
        assert not torch.equal(whole["weight"], alone["weight"])
        scale = state["weight"].abs().max() / 127
        assert bool(((whole["weight"] - state["weight"]).abs() <= scale).all())
    else:
        assert bits(whole["weight"]) == bits(alone["weight"])


def test_only_the_chunks_that_hold_the_box_are_read():
    state = {"first": torch.arange(512.0).reshape(64, 8), "second": torch.arange(512.0).reshape(64, 8)}
    with chunks_of(256):  # eight rows
        manifest, contents = write(by_rows(state, [40, 24]))
        reading = PartialRead(manifest, {"second": Box((36, 0), (8, 8))})
        chunks = list(reading.chunks)
    entries = {entry.name: entry for entry in manifest.tensors}
    parts = entries["second"].parts
    expected = []
    for part, first, last in ((parts[0], 36, 40), (parts[1], 0, 4)):
        begin, end = part.start + first * 32, part.start + last * 32
        expected += [(part.shard, chunk) for chunk in range(begin // 256, (end - 1) // 256 + 1)]
    assert chunks == expected
    assert len(chunks) < sum(len(content) for content in contents) / 256 / 4


def test_a_chunk_that_several_tensors_need_is_read_once():
    state = {f"layer.{index}": torch.arange(8.0) + index for index in range(6)}
    manifest, contents = write(by_rows(state, [4, 4]))
    boxes = {name: Box((2,), (4,)) for name in state}
    assert list(PartialRead(manifest, boxes).chunks) == [(0, 0), (1, 0)]
    found = read(manifest, contents, boxes)
    assert {name: values.tolist() for name, values in found.items()} == {
        name: tensor[2:6].tolist() for name, tensor in state.items()
    }


def test_what_has_no_elements_needs_no_chunk():
    manifest, contents = write([{"empty": torch.zeros(3, 0), "full": torch.zeros(4)}])
    boxes = {"empty": Box.whole((3, 0)), "full": Box((2,), (0,))}
    assert list(PartialRead(manifest, boxes).chunks) == []
    found = read(manifest, contents, boxes)
    assert (found["empty"].shape, found["full"].shape) == ((3, 0), (0,))


def test_the_names_of_a_tied_tensor_share_what_was_read_once():
    tensor = torch.arange(12.0).reshape(6, 2)
    fragments = [
        dict.fromkeys(("decoder", "embedding"), cut(tensor, Box((start, 0), (3, 2)))) for start in (0, 3)
    ]
    with chunks_of(8):
        manifest, contents = write(fragments)
        assert manifest.aliases == {"embedding": "decoder"}
        box = Box((2, 0), (2, 2))
        alone = list(PartialRead(manifest, {"embedding": box}).chunks)
        assert list(PartialRead(manifest, {"decoder": box, "embedding": box}).chunks) == alone
        found = read(manifest, contents, {"decoder": box, "embedding": box})
    assert found["decoder"] is found["embedding"]
    assert found["decoder"].tolist() == tensor[2:4].tolist()


def test_a_block_of_rounded_values_is_read_whole_and_no_other():
    tensor = torch.arange(4096.0).reshape(64, 64)
    with chunks_of(256):
        manifest, contents = write(by_rows({"weight": tensor}, [32, 32]), "int8")
        reading = PartialRead(manifest, {"weight": Box((37, 1), (2, 62))})
        part = manifest.tensors[0].parts[1]
        # The rows 5 and 6 of the second part are of its second block of 256.
        needed = [(part.start + 256, part.start + 512), (part.scales[0] + 4, part.scales[0] + 8)]
        chunks = {chunk for begin, end in needed for chunk in range(begin // 256, (end - 1) // 256 + 1)}
        assert list(reading.chunks) == [(1, chunk) for chunk in sorted(chunks)]
        found = read(manifest, contents, {"weight": Box((37, 1), (2, 62))})
    assert bits(found["weight"]) == bits(decode(manifest, contents)["weight"][37:39, 1:63])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "box",
    [
        Box((3, 5), (30, 20)),
        Box((0, 39), (64, 1)),
        Box((20, 0), (25, 40)),
        Box((31, 39), (1, 1)),
        Box((32, 0), (32, 40)),
        Box((6, 16), (1, 1)),
    ],
)
def test_boxes_that_begin_and_end_within_blocks_are_decoded_by_the_scales_of_these(dtype, box):
    # Every block of 256 has another scale.
    tensor = (torch.arange(2560.0).reshape(64, 40) ** 2 / 1000).to(dtype)
    manifest, contents = write(by_rows({"weight": tensor}, [32, 32]), "int8")
    whole = decode(manifest, contents)["weight"]
    found = read(manifest, contents, {"weight": box})["weight"]
    assert bits(found) == bits(whole[box.within(Box.whole((64, 40)))])


@pytest.mark.parametrize("codec", CODECS)
def test_an_altered_chunk_is_refused_if_it_is_needed_and_not_seen_if_it_is_not(codec):
    tensor = a_tensor((64, 64), torch.float32, 0)
    with chunks_of(512):
        manifest, contents = write(by_rows({"weight": tensor}, [32, 32]), codec)
        box = Box((0, 0), (4, 64))
        ((_, needed), *_) = PartialRead(manifest, {"weight": box}).chunks
        others = set(range(len(manifest.shards[0].chunk_sha256))) - {
            chunk for _, chunk in PartialRead(manifest, {"weight": box}).chunks
        }
        expected = read(manifest, contents, {"weight": box})
        for chunk, is_needed in ((needed, True), (max(others), False)):
            altered = bytearray(contents[0])
            altered[chunk * 512] ^= 1
            damaged = [bytes(altered), contents[1]]
            if is_needed:
                with pytest.raises(SnapshotIntegrityError, match=f"chunk {chunk} at byte {chunk * 512}"):
                    read(manifest, damaged, {"weight": box})
            else:
                assert bits(read(manifest, damaged, {"weight": box})["weight"]) == bits(expected["weight"])


def with_parts(manifest, *parts):
    """Return a hostile manifest, of which the first tensor has other parts."""
    first, *others = manifest.tensors
    return replace(manifest, tensors=(replace(first, parts=parts), *others))


def test_parts_that_overlap_are_refused():
    tensor = torch.arange(24.0).reshape(6, 4)
    manifest, contents = write(by_rows({"weight": tensor}, [2, 2, 2]))
    first, second, third = manifest.tensors[0].parts
    hostile = with_parts(manifest, first, replace(second, offsets=(1, 0)), third)
    with pytest.raises(SnapshotFormatError, match="'weight' must hold each element once, got 16 of 12"):
        read(hostile, contents, {"weight": Box((0, 0), (3, 4))})
    # Here they hold as many elements as the box has, but not each of them.
    with pytest.raises(SnapshotFormatError, match="parts of 'weight' must not overlap") as caught:
        read(hostile, contents, {"weight": Box((0, 0), (4, 4))})
    assert (caught.value.peer, caught.value.step, caught.value.key) == ("a", 300, manifest.key)
    # What it does not need it does not look at.
    assert read(hostile, contents, {"weight": Box((4, 0), (2, 4))})["weight"].tolist() == tensor[4:].tolist()


def test_parts_that_are_missing_are_refused():
    tensor = torch.arange(24.0).reshape(6, 4)
    manifest, contents = write(by_rows({"weight": tensor}, [2, 2, 2]))
    first, second, third = manifest.tensors[0].parts
    hostile = with_parts(manifest, first, second, replace(third, offsets=(2, 0)))
    with pytest.raises(SnapshotFormatError, match="got 0 of 8 in a box of it"):
        read(hostile, contents, {"weight": Box((4, 0), (2, 4))})
    with pytest.raises(SnapshotFormatError, match="got 16 of 8 in a box of it"):
        read(hostile, contents, {"weight": Box((2, 0), (2, 4))})


@SETTINGS
@given(rows=st.tuples(*[st.integers(0, 4)] * 3), box=boxes_of((6, 10)))
def test_wherever_parts_are_said_to_lie_boxes_are_refused_or_hold_what_was_published(rows, box):
    tensor = 1000 + torch.arange(60.0).reshape(6, 10)
    with chunks_of(64):
        manifest, contents = write(by_rows({"weight": tensor}, [2, 2, 2]))
        places = zip(manifest.tensors[0].parts, rows, strict=True)
        hostile = with_parts(manifest, *(replace(part, offsets=(row, 0)) for part, row in places))
        try:
            found = read(hostile, contents, {"weight": box})["weight"]
        except SnapshotFormatError:
            assert sorted(rows) != [0, 2, 4]
            return
    assert found.shape == box.shape
    # Nothing comes from memory that was not written.
    assert set(found.flatten().tolist()) <= set(tensor.flatten().tolist())


def test_values_are_in_memory_of_their_own_and_may_be_kept():
    manifest, contents = write([{"weight": torch.arange(6.0)}])
    buffer = bytearray(contents[0])
    reading = PartialRead(manifest, {"weight": Box((1,), (4,))})
    for shard, chunk in reading.chunks:
        reading.take(shard, chunk, memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert reading.decode()["weight"].tolist() == [1.0, 2.0, 3.0, 4.0]
