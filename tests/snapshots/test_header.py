import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from codistill.snapshots.header import FileEntry, read_header, write_header
from codistill.snapshots.tensors import DTYPES

SETTINGS = settings(deadline=None, derandomize=True, database=None, max_examples=60)
NAMES = st.text(min_size=1, max_size=10).filter(lambda name: name != "__metadata__")
TENSORS = st.tuples(st.sampled_from(list(DTYPES)), st.lists(st.integers(0, 3), max_size=3).map(tuple))


@SETTINGS
@given(tensors=st.dictionaries(NAMES, TENSORS, min_size=1, max_size=20))
def test_a_file_is_laid_out_as_safetensors_lays_it_out(tensors):
    data = save({name: torch.zeros(shape).to(DTYPES[dtype]) for name, (dtype, shape) in tensors.items()})
    header, entries = write_header(tensors)
    assert data.startswith(header)
    assert max(entry.end for entry in entries.values()) == len(data)
    assert read_header(memoryview(data)) == (len(header), entries)


def test_everything_lies_at_a_multiple_of_its_item_size():
    _, entries = write_header({name: (name, (3,)) for name in DTYPES})
    assert entries.keys() == DTYPES.keys()
    assert all(entry.start % DTYPES[name].itemsize == 0 for name, entry in entries.items())


def test_metadata_of_other_writers_is_passed_over():
    header = json.dumps(
        {"__metadata__": {"by": "x"}, "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    )
    data = len(header).to_bytes(8, "little") + header.encode() + b"\0"
    entry = FileEntry(dtype="U8", shape=(1,), start=8 + len(header), end=9 + len(header))
    assert read_header(memoryview(data)) == (8 + len(header), {"w": entry})


@SETTINGS
@given(data=st.binary(max_size=40))
def test_garbage_is_no_header(data):
    with pytest.raises(ValueError, match="it must begin with "):
        read_header(memoryview(data))
