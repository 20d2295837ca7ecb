import dataclasses

import pytest

from codistill.snapshots.keys import shard_name
from codistill.snapshots.shards import Shard
from codistill.snapshots.tensors import Part, TensorEntry, check_layout, check_tensor_name


def part(shard, offsets, shape, start, end):
    return Part(shard=shard, offsets=offsets, shape=shape, start=start, end=end)


def entry(*parts, name="weight", dtype="F32", shape=(4, 3), stored=None):
    return TensorEntry(name=name, dtype=dtype, shape=shape, parts=parts, stored=stored)


TOP = part(0, (0, 0), (2, 3), 100, 124)
BOTTOM = part(1, (2, 0), (2, 3), 50, 74)
WHOLE = part(0, (0, 0), (4, 3), 60, 108)
QUANTISED = dataclasses.replace(WHOLE, end=72, scales=(56, 60))
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
        (lambda: entry(QUANTISED, stored="I4"), r"stored must be one of BF16, I8 for F32, got 'I4'"),
        (lambda: entry(QUANTISED, dtype="BF16", stored="BF16"), "stored must be one of I8 for BF16"),
        (lambda: entry(QUANTISED, dtype="I64", stored="I8"), "stored must be one of none for I64"),
        (lambda: entry(WHOLE, stored="I8"), "bytes must be 12 for I8 of shape .* got 60 to 108"),
        (lambda: entry(QUANTISED), "bytes must be 48 for F32 of shape .* got 60 to 72"),
        (
            lambda: entry(dataclasses.replace(QUANTISED, end=84), stored="BF16"),
            "scales must be there exactly",
        ),
        (lambda: entry(dataclasses.replace(WHOLE, scales=(0, 4))), "scales must be there exactly"),
        (lambda: entry(dataclasses.replace(QUANTISED, scales=None), stored="I8"), "scales must be there"),
        (lambda: entry(dataclasses.replace(QUANTISED, scales=(0, 8)), stored="I8"), "scales must be 4 bytes"),
        (
            lambda: entry(dataclasses.replace(QUANTISED, scales=(-4, 0)), stored="I8"),
            "scales must be 4 bytes",
        ),
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
        (
            [entry(dataclasses.replace(QUANTISED, scales=(197, 201)), stored="I8")],
            {},
            SHARDS,
            "within the shards' files",
        ),
        (
            [entry(WHOLE), entry(dataclasses.replace(WHOLE, start=107, end=155), name="other")],
            {},
            SHARDS,
            "'other': parts must not lie on bytes of others, got those of 'weight'",
        ),
        (
            [entry(dataclasses.replace(QUANTISED, scales=(70, 74)), stored="I8")],
            {},
            SHARDS,
            "must not lie on bytes of others",
        ),
        (
            [entry(QUANTISED, stored="I8"), entry(TOP, BOTTOM, name="weight::scales")],
            {},
            SHARDS,
            "must not end in '::scales' where tensors are quantised, got 'weight::scales'",
        ),
        ([entry(TOP, dataclasses.replace(BOTTOM, shard=2))], {}, SHARDS, "within the shards' files"),
        ([entry(TOP, dataclasses.replace(BOTTOM, shard=-1))], {}, SHARDS, "within the shards' files"),
    ],
)
def test_tables_that_do_not_fit_one_another_are_refused(tensors, aliases, shards, message):
    with pytest.raises(ValueError, match=message):
        check_layout(tensors, aliases, shards)


def test_a_tensor_may_be_stored_in_another_dtype():
    quantised = entry(QUANTISED, dtype="F64", stored="I8")
    check_layout([quantised], {}, SHARDS)
    assert (quantised.stored_dtype, quantised.is_quantised, quantised.decoded_bytes) == ("I8", True, 96)
    rounded = entry(dataclasses.replace(WHOLE, end=84), stored="BF16")
    assert (rounded.stored_dtype, rounded.is_quantised, rounded.decoded_bytes) == ("BF16", False, 48)
    as_it_is = entry(WHOLE, dtype="I32")
    assert (as_it_is.stored_dtype, as_it_is.is_quantised) == ("I32", False)


def test_parts_without_elements_may_lie_anywhere():
    empty = entry(part(0, (0,), (0,), 70, 70), name="empty", shape=(0,))
    check_layout([entry(WHOLE), empty], {}, SHARDS)


@pytest.mark.parametrize("name", ["", "__metadata__", "\ud800", "x" * 4097])
def test_names_that_cannot_be_stored_are_refused(name):
    with pytest.raises(ValueError, match="tensor names must be 1 to 4096 characters"):
        check_tensor_name(name)
