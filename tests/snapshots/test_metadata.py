import enum
import tracemalloc

import numpy as np
import pytest

from codistill.snapshots.metadata import check_metadata


class Colour(enum.IntEnum):
    RED = 1


def test_json_values_are_copied():
    widths = [64, 128]
    copy = check_metadata({"widths": widths, "nested": {"a": None, "b": (True, 1.5, "x")}})
    widths.append(256)
    assert copy == {"widths": [64, 128], "nested": {"a": None, "b": [True, 1.5, "x"]}}


def test_subclasses_of_plain_types_become_plain():
    copy = check_metadata({"colour": Colour.RED, "lr": np.float64(0.1)})
    assert copy == {"colour": 1, "lr": 0.1}
    assert [type(value) for value in copy.values()] == [int, float]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.int64(1), r"metadata\['x'\] must be made of strings.*got int64"),
        (object(), "got object"),
        (float("nan"), "got nan"),
        (2**63, "got 9223372036854775808"),
        ("\ud800", "got '.ud800'"),
        (b"", "got bytes"),
        ([{"deep": {1, 2}}], r"metadata\['x'\]\[0\]\['deep'\] must .* got set"),
        ({1: 2}, r"metadata\['x'\] must have strings as keys, got 1"),
    ],
)
def test_other_values_are_refused_by_their_place(value, message):
    with pytest.raises(TypeError, match=message):
        check_metadata({"x": value})


def test_a_cycle_is_refused():
    cycle = []
    cycle.append(cycle)
    with pytest.raises(TypeError, match="at most 16 levels deep"):
        check_metadata({"x": cycle})


def test_metadata_must_be_a_mapping():
    with pytest.raises(TypeError, match="metadata must be a mapping, got list"):
        check_metadata([("a", 1)])


def test_a_long_key_is_not_spelled_out_for_each_value_below_it():
    metadata = {"k" * 2**22: [0, 0]}
    tracemalloc.start()
    try:
        assert check_metadata(metadata) == metadata
        # Once, to see whether it is text: else a long key over a long list would take for ever.
        assert tracemalloc.get_traced_memory()[1] < 1.5 * 2**22
    finally:
        tracemalloc.stop()
