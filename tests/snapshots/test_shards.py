import pytest

from codistill.errors import SnapshotIntegrityError
from codistill.snapshots.keys import shard_name
from codistill.snapshots.shards import (
    CHUNK_BYTES,
    Shard,
    check_size,
    chunk_digests,
    content_digest,
    verify_chunk,
    verify_shard,
)


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


def test_chunks_are_verified_one_by_one():
    data = bytes(range(256)) * (CHUNK_BYTES // 256) + b"tail"
    shard = Shard.of(shard_name(1, 1), data)
    verify_chunk(shard, 0, data[:CHUNK_BYTES])
    verify_chunk(shard, 1, memoryview(data)[CHUNK_BYTES:])
    with pytest.raises(SnapshotIntegrityError, match="chunk 1 at byte 8388608") as caught:
        verify_chunk(shard, 1, b"tale", peer="a", key="a/snapshots/0-0/" + shard.name)
    assert (caught.value.peer, caught.value.key) == ("a", "a/snapshots/0-0/" + shard.name)


def test_a_whole_file_is_verified_whatever_holds_it():
    data = bytes(CHUNK_BYTES) + b"tail"
    shard = Shard.of(shard_name(1, 1), memoryview(data))
    verify_shard(shard, data)
    verify_shard(shard, memoryview(data))
    with pytest.raises(SnapshotIntegrityError, match="chunk 1 at byte 8388608"):
        verify_shard(shard, data[:-1] + b"L", peer="a")
    with pytest.raises(
        SnapshotIntegrityError, match=r"must have 8388612 bytes, got 8388611\. It was truncated"
    ):
        check_size(shard, data[:-1], peer="a")
