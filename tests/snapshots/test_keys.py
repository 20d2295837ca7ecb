import pytest

from codistill.snapshots.keys import (
    RUN_KEY,
    check_peer_name,
    life_key,
    manifest_key,
    parse_manifest_key,
    pointer_key,
    shard_key,
    shard_name,
    status_key,
)
from codistill.stores.base import check_key


def test_keys_are_those_of_the_architecture():
    assert [
        RUN_KEY,
        pointer_key("a"),
        status_key("a"),
        life_key("a", 3),
        manifest_key("a", 3, 12),
        shard_key("a", 3, 12, shard_name(1, 4)),
    ] == [
        "run.json",
        "a/latest.json",
        "a/status.json",
        "a/lives/3.json",
        "a/snapshots/3-12/manifest.json",
        "a/snapshots/3-12/shard-00001-of-00004.safetensors",
    ]


def test_every_key_of_a_good_peer_is_good_for_a_store():
    peer = check_peer_name("A-1_b.c" + "x" * 57)
    for key in (
        pointer_key(peer),
        manifest_key(peer, 2**62, 2**62),
        life_key(peer, 0),
        shard_name(10**6, 10**6),
    ):
        assert check_key(key) == key


@pytest.mark.parametrize(
    "name", ["", "a/b", "..", ".a", "-a", "a b", "x" * 65, "a\n", "\u00e9", "run.json", "Run.JSON"]
)
def test_bad_peer_names_are_refused_with_the_argument(name):
    with pytest.raises(ValueError, match=r"peers\[0\] must .*Rename the peer"):
        check_peer_name(name, "peers[0]")


def test_a_peer_name_that_is_no_string_is_a_type_error():
    with pytest.raises(TypeError, match="peer must be a string, got int"):
        check_peer_name(0)


@pytest.mark.parametrize(("index", "count"), [(0, 1), (2, 1), (1, 0)])
def test_shards_are_counted_from_one(index, count):
    with pytest.raises(ValueError, match=f"between 1 and count = {count}, got {index}"):
        shard_name(index, count)


def test_a_manifest_key_is_parsed_back():
    assert parse_manifest_key(manifest_key("a.b-c", 0, 10**18)) == ("a.b-c", 0, 10**18)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a/latest.json",
        "a/snapshots/1/manifest.json",
        "a/snapshots/01-2/manifest.json",
        "a/snapshots/1--2/manifest.json",
        "a/b/snapshots/1-2/manifest.json",
        "../snapshots/1-2/manifest.json",
        "a/snapshots/1-2/manifest.json\n",
    ],
)
def test_other_keys_are_no_manifest_keys(key):
    with pytest.raises(ValueError, match="key must be like"):
        parse_manifest_key(key)
