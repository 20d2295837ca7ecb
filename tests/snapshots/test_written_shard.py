import json
from dataclasses import replace

import pytest
import torch

from codistill.fragments import Box, Fragment
from codistill.snapshots.staging import Staging
from codistill.snapshots.written_shard import WrittenShard, merge


def written_by(ranks, codec="exact"):
    """Return what ranks say that they have written, each its fragments by name."""
    found = []
    for index, fragments in enumerate(ranks, start=1):
        staging = Staging(fragments, codec=codec, index=index, count=len(ranks))
        staging.fill(fragments)
        found.append(staging.encode_shard()[0])
    return found


def rows(tensor, start, end):
    box = Box((start, *(0,) * (tensor.dim() - 1)), (end - start, *tensor.shape[1:]))
    return Fragment(tensor[start:end].clone(), box, tuple(tensor.shape))


@pytest.fixture
def two_ranks():
    weight = torch.arange(2048.0).reshape(64, 32)
    first = {"weight": rows(weight, 0, 40), "steps": torch.tensor(7)}
    tied = rows(weight, 40, 64)
    return written_by([first, {"weight": tied, "head": tied}], "int8")


def test_what_was_written_comes_through_json(two_ranks):
    for written in two_ranks:
        assert WrittenShard.from_json(written.to_json()) == written


def test_json_holds_nothing_but_names_and_numbers(two_ranks):
    said = json.loads(two_ranks[0].to_json())
    assert sorted(said) == ["aliases", "parts", "shard"]
    assert [part["name"] for part in said["parts"]] == ["steps", "weight"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda said: said.pop("aliases"), "aliases"),
        (lambda said: said["parts"][0].update(shape="long"), "shape"),
        (lambda said: said["shard"].update(size=-1), "size"),
        (lambda said: said["aliases"].update(head=3), r"aliases\['head'\]"),
    ],
)
def test_what_is_no_written_shard_is_named(two_ranks, change, message):
    said = json.loads(two_ranks[1].to_json())
    change(said)
    with pytest.raises(ValueError, match=message):
        WrittenShard.from_json(json.dumps(said).encode())


def test_a_tensor_is_the_parts_of_all_ranks_and_aliases_are_those_of_any(two_ranks):
    tensors, aliases = merge(two_ranks)
    assert [(entry.name, entry.shape, entry.stored) for entry in tensors] == [
        ("steps", (), None),
        ("weight", (64, 32), "I8"),
    ]
    assert sorted((part.shard, part.offsets, part.shape) for part in tensors[1].parts) == [
        (0, (0, 0), (40, 32)),
        (1, (40, 0), (24, 32)),
    ]
    assert aliases == {"head": "weight"}


def test_parts_that_do_not_add_up_are_refused(two_ranks):
    with pytest.raises(ValueError, match="only part must have shape"):
        merge(two_ranks[:1])
    short = replace(two_ranks[1], parts=two_ranks[0].parts[1:])
    with pytest.raises(ValueError, match="different shards"):
        merge([two_ranks[0], short])


def test_ranks_that_disagree_on_a_dtype_are_refused():
    weight = torch.arange(12.0).reshape(6, 2)
    ranks = [{"weight": rows(weight, 0, 3)}, {"weight": rows(weight.double(), 3, 6)}]
    with pytest.raises(ValueError, match="tensor 'weight': bytes must be 24 for F32"):
        merge(written_by(ranks))
