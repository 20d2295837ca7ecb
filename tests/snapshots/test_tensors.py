import dataclasses

import pytest

from codistill.snapshots.keys import shard_name
from codistill.snapshots.tensors import (
    CHUNK_BYTES,
    Part,
    Shard,
    TensorEntry,
    check_layout,
    check_tensor_name,
    chunk_digests,
    content_digest,
)


def part(shard, offsets, shape, start, end):
    return Part(shard=shard, offsets=offsets, shape=shape, start=start, end=end)


def entry(*parts, name="weight", dtype="F32", shape=(4, 3)):
    return TensorEntry(name=name, dtype=dtype, shape=shape, parts=parts)


TOP = part(0, (0, 0), (2, 3), 100, 124)
BOTTOM = part(1, (2, 0), (2, 3), 50, 74)
SHARDS = [Shard.of(shard_name(i, 2), bytes(200)) for i in (1, 2)]


def test_a_tensor_may_lie_in_several_shards():
    check_layout([entry(TOP, BOTTOM)], {"tied": "weight"}, SHARDS)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: entry(TOP, BOTTOM, dtype="F4"), "dtype must be one of F64, "),
        (lambda: entry(), "parts must not be empty"),
        (lambda: entry(TOP), r"its only part must have shape \[4, 3\], got \[2, 3\]"),
        (lambda: entry(part(0, (0, 0), (1, 0), 0, 0), shape=(3, 0)), "its only part must have shape"),
        (lambda: entry(TOP, part(1, (2, 0), (1, 3), 50, 62)), "add up to 12 elements, got 9"),
        (lambda: entry(TOP, dataclasses.replace(BOTTOM, shard=0)), "different shards"),
        (lambda: entry(TOP, dataclasses.replace(BOTTOM, offsets=(3, 0))), "must lie within shape"),
        (lambda: entry(TOP, dataclasses.replace(BOTTOM, offsets=(-1, 0))), "must lie within shape"),
        (lambda: entry(TOP, dataclasses.replace(BOTTOM, offsets=(2,))), "must have 2 dimensions"),
        (lambda: entry(TOP, dataclasses.replace(BOTTOM, end=75)), "bytes must be 24 .* got 50 to 75"),
        (lambda: entry(TOP, dataclasses.replace(BOTTOM, start=-1, end=23)), "bytes must be 24"),
        (lambda: entry(part(0, (), (), 0, 4), shape=(1,) * 33), "at most 32 dimensions, got 33"),
        (lambda: entry(part(0, (0, 0), (0, 2**62), 0, 0), shape=(0, 2**62)), r"below 2\*\*63 bytes"),
        (lambda: entry(TOP, BOTTOM, name=""), "tensor names must be"),
    ],
)
def test_parts_that_do_not_make_the_tensor_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("tensors", "aliases", "shards", "message"),
    [
        ([], {}, SHARDS, "at least one"),
        ([entry(TOP, BOTTOM)] * 2, {}, SHARDS, "different names, got 1 repeated"),
        ([entry(TOP, BOTTOM)], {"tied": "missing"}, SHARDS, "aliases must be other names"),
        ([entry(TOP, BOTTOM)], {"weight": "weight"}, SHARDS, "aliases must be other names"),
        ([entry(TOP, BOTTOM)], {"": "weight"}, SHARDS, "tensor names must be"),
        ([entry(TOP, BOTTOM)], {}, SHARDS[:1], r"shards\[0\]\.name must be 'shard-00001-of-00001"),
        ([entry(TOP, BOTTOM)], {}, SHARDS[::-1], r"shards\[0\]\.name must be 'shard-00001-of-00002"),
        (
            [entry(TOP, dataclasses.replace(BOTTOM, start=180, end=204))],
            {},
            SHARDS,
            "'weight': parts must lie within the shards' files",
        ),
        ([entry(TOP, dataclasses.replace(BOTTOM, shard=2))], {}, SHARDS, "within the shards' files"),
        ([entry(TOP, dataclasses.replace(BOTTOM, shard=-1))], {}, SHARDS, "within the shards' files"),
    ],
)
def test_tables_that_do_not_fit_one_another_are_refused(tensors, aliases, shards, message):
    with pytest.raises(ValueError, match=message):
        check_layout(tensors, aliases, shards)


@pytest.mark.parametrize("name", ["", "__metadata__", "\ud800", "x" * 4097])
def test_names_that_cannot_be_stored_are_refused(name):
    with pytest.raises(ValueError, match="tensor names must be 1 to 4096 characters"):
        check_tensor_name(name)


def test_a_shard_has_a_digest_for_every_chunk():
    data = bytes(CHUNK_BYTES) + b"x"
    shard = Shard.of(shard_name(1, 1), data)
    assert len(shard.chunk_sha256) == 2
    # printf x | sha256sum
    assert shard.chunk_sha256[1] == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert len(chunk_digests(data[:CHUNK_BYTES])) == 1
    with pytest.raises(ValueError, match="must be 2 digests for 8388609 bytes, got 1"):
        Shard(name=shard.name, size_bytes=shard.size_bytes, chunk_sha256=shard.chunk_sha256[:1])
    with pytest.raises(ValueError, match="64 hexadecimal digits each, got 'X'"):
        Shard(name=shard.name, size_bytes=1, chunk_sha256=("X",))


def test_the_content_digest_depends_on_every_chunk():
    data = bytearray(CHUNK_BYTES + 1)
    before = content_digest([Shard.of(shard_name(1, 1), bytes(data))])
    data[-1] = 1
    assert content_digest([Shard.of(shard_name(1, 1), bytes(data))]) != before
