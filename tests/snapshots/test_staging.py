import gc
import threading
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from codistill.fragments import Box, Fragment
from codistill.snapshots.codec import CODECS, encode
from codistill.snapshots.staging import Staging, check_state


def content_of(encoded):
    return bytes(encoded.shards[0][1])


def a_state(*, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(64, 32, generator=generator),
        "half": torch.randn(40, 40, generator=generator).half(),
        "bias": torch.randn(64, generator=generator),
        "steps": torch.tensor(seed),
    }


@pytest.mark.parametrize("codec", CODECS)
def test_one_memory_serves_one_snapshot_after_the_other(codec):
    staging = Staging(a_state(), codec=codec)
    for seed in (1, 2, 1):
        staging.fill(a_state(seed=seed))
        encoded, fresh = staging.encode(), encode(a_state(seed=seed), codec)
        assert content_of(encoded) == content_of(fresh)
        assert (encoded.shards[0][0], encoded.tensors) == (fresh.shards[0][0], fresh.tensors)
        assert staging.size_bytes == len(content_of(fresh))


@pytest.mark.parametrize("codec", CODECS)
def test_what_was_filled_in_does_not_change_with_the_state(codec):
    state = a_state()
    staging = Staging(state, codec=codec)
    staging.fill(state)
    for tensor in state.values():
        tensor.zero_()
    assert content_of(staging.encode()) == content_of(encode(a_state(), codec))


@pytest.mark.parametrize("codec", CODECS)
def test_contents_stay_until_the_next_fill(codec):
    staging = Staging(a_state(), codec=codec)
    staging.fill(a_state(seed=1))
    content = staging.encode().shards[0][1]
    first = bytes(content)
    assert isinstance(content, memoryview)
    assert content.readonly
    assert content == staging.encode().shards[0][1] == first
    staging.fill(a_state(seed=2))
    staging.encode()
    assert content != first


def test_contents_outlive_the_staging():
    staging = Staging(a_state())
    staging.fill(a_state())
    content = staging.encode().shards[0][1]
    del staging
    gc.collect()
    assert content == content_of(encode(a_state()))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "change",
    [
        lambda state: state | {"weight": state["half"]},
        lambda state: state | {"bias": state["weight"].view(-1)[:64]},
        lambda state: state | {"weight": state["weight"].double()},
        lambda state: state | {"weight": state["weight"].t()},
        lambda state: state | {"more": torch.ones(3)},
        lambda state: {name: tensor for name, tensor in state.items() if name != "half"},
        lambda state: dict(reversed(state.items())),
        lambda state: state | {"tied": state["weight"]},
    ],
    ids=["tied", "overlapping", "dtype", "shape", "added", "removed", "reordered", "tied to more"],
)
def test_a_state_that_is_laid_out_otherwise_is_laid_out_anew(codec, change):
    staging = Staging(a_state(), codec=codec)
    staging.fill(a_state())
    old = staging.encode().shards[0][1]
    before = bytes(old)
    for state in (change(a_state(seed=1)), a_state(seed=2), change(a_state(seed=3))):
        staging.fill(state)
        encoded, fresh = staging.encode(), encode(state, codec)
        assert content_of(encoded) == content_of(fresh)
        assert (encoded.tensors, encoded.aliases) == (fresh.tensors, fresh.aliases)
    assert len(old) == len(before)


def test_weights_that_are_tied_again_are_stored_once_again():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    staging = Staging(model.state_dict())
    untied_bytes = staging.size_bytes
    model[1].weight = model[0].weight
    staging.fill(model.state_dict())
    assert staging.encode().aliases == {"1.weight": "0.weight"}
    assert staging.size_bytes < untied_bytes


@pytest.mark.parametrize("codec", CODECS)
def test_filling_and_encoding_copy_no_second_model(codec):
    state = {f"layer.{i}": torch.ones(100, 1000) for i in range(20)}
    staging = Staging(state, codec=codec)
    staging.fill(state)
    staging.encode()
    memory = [target.data_ptr() for target in staging._layout.targets.values()]
    # What Python itself allocates; the tensors' memory is compared by its addresses.
    tracemalloc.start()
    staging.fill(state)
    content = staging.encode().shards[0][1]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1_000_000
    assert [target.data_ptr() for target in staging._layout.targets.values()] == memory
    assert content.obj.ctypes.data == staging._layout.file.data_ptr()


def test_encode_needs_a_fill_that_succeeded():
    staging = Staging(a_state())
    with pytest.raises(RuntimeError, match="fill must succeed before encode"):
        staging.encode()
    staging.fill(a_state())
    staging.encode()
    with pytest.raises(TypeError, match=r"state\['bias'\] must be a dense tensor"):
        staging.fill(a_state() | {"bias": None})
    with pytest.raises(RuntimeError, match="fill must succeed before encode"):
        staging.encode()
    staging.fill(a_state())
    assert content_of(staging.encode()) == content_of(encode(a_state()))


def test_another_thread_may_encode():
    staging = Staging(a_state(), codec="int8")
    staging.fill(a_state())
    found = []
    thread = threading.Thread(target=lambda: found.append(content_of(staging.encode())))
    thread.start()
    thread.join()
    assert found == [content_of(encode(a_state(), "int8"))]


def test_gradients_are_neither_needed_nor_made():
    model = nn.Linear(40, 40)
    state = dict(model.named_parameters())
    staging = Staging(state, codec="int8")
    staging.fill(state)
    staging.encode()
    assert all(parameter.grad_fn is None for parameter in state.values())
    assert not any(target.requires_grad for target in staging._layout.targets.values())


@pytest.mark.parametrize("codec", CODECS)
def test_names_of_scales_are_refused_where_there_are_scales(codec):
    state = {"weight": torch.ones(2), "weight::scales": torch.ones(2)}
    if codec == "int8":
        with pytest.raises(
            ValueError, match=r"must not end in '::scales' .* got 'weight::scales'\. Rename it"
        ):
            check_state(state, codec)
        with pytest.raises(ValueError, match="must not end in '::scales'"):
            Staging(state, codec=codec)
    else:
        check_state(state, codec)
        assert [entry.name for entry in encode(state, codec).tensors] == ["weight", "weight::scales"]


def test_an_unknown_codec_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="codec must be one of 'exact', 'bfloat16', 'int8', got 'zip'"):
        Staging(a_state(), codec="zip")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("codec", CODECS)
def test_what_is_on_a_device_gives_the_bytes_it_gives_on_the_host(codec):
    state = a_state()
    on_device = {name: tensor.cuda() for name, tensor in state.items()}
    staging = Staging(state, codec=codec)
    for _ in range(2):
        staging.fill(on_device)
        assert staging._layout.file.is_pinned()
        for tensor in on_device.values():
            tensor.zero_()
        assert content_of(staging.encode()) == content_of(encode(state, codec))
        on_device = {name: tensor.cuda() for name, tensor in state.items()}
    staging.fill(state)
    assert not staging._layout.file.is_pinned()


# Fragments, of which every rank stages its own


def fragments_of(state, rank, ranks):
    """Return the rows of every tensor that one rank holds, as ``fully_shard`` divides them."""
    found = {}
    for name, tensor in state.items():
        rows = -(-len(tensor) // ranks)
        start, end = min(rank * rows, len(tensor)), min((rank + 1) * rows, len(tensor))
        if start < end:
            box = Box((start, *(0,) * (tensor.dim() - 1)), (end - start, *tensor.shape[1:]))
            found[name] = Fragment(tensor[start:end], box, tuple(tensor.shape))
    return found


def shard_of(fragments, *, codec="exact", index=1, count=2):
    staging = Staging(fragments, codec=codec, index=index, count=count)
    staging.fill(fragments)
    return staging.encode_shard()


def test_a_shard_has_the_name_of_its_place_and_its_parts_tell_which_box_they_are():
    state = {"weight": torch.arange(10.0).reshape(5, 2), "bias": torch.arange(3.0)}
    written, content = shard_of(fragments_of(state, 1, 2), index=2)
    assert written.shard.name == "shard-00002-of-00002.safetensors"
    assert written.shard.size_bytes == len(content)
    assert [(part.name, part.shape, part.part.shard) for part in written.parts] == [
        ("bias", (3,), 1),
        ("weight", (5, 2), 1),
    ]
    boxes = {part.name: (part.part.offsets, part.part.shape) for part in written.parts}
    assert boxes == {"bias": ((2,), (1,)), "weight": ((3, 0), (2, 2))}
    for part in written.parts:
        values = torch.frombuffer(bytearray(content[part.part.start : part.part.end]), dtype=torch.float32)
        assert values.tolist() == state[part.name][part.part.offsets[0] :].flatten().tolist()


def test_a_shard_is_a_safetensors_file_of_its_own(tmp_path):
    state = {"weight": torch.arange(10.0).reshape(5, 2), "half": torch.arange(4.0).half()}
    _, content = shard_of(fragments_of(state, 0, 2))
    file = tmp_path / "shard.safetensors"
    file.write_bytes(content)
    found = load_file(file)
    assert found["weight"].tolist() == state["weight"][:3].tolist()
    assert found["half"].tolist() == state["half"][:2].tolist()


@pytest.mark.parametrize(("rows", "is_rounded"), [(15, False), (16, True)])
def test_whether_a_fragment_is_rounded_goes_by_the_size_of_the_whole(rows, is_rounded):
    """So that ranks that divide a tensor agree: each of these four holds far less than 1024 elements."""
    state = {"weight": torch.arange(rows * 64.0).reshape(rows, 64)}
    stored = [
        part.stored
        for rank in range(4)
        for part in shard_of(fragments_of(state, rank, 4), codec="int8", index=rank + 1, count=4)[0].parts
    ]
    assert stored == ["I8" if is_rounded else None] * 4


def test_blocks_of_rounded_values_begin_with_every_fragment():
    weight = torch.full((64, 32), 1000.0)
    weight[:33] = 1.0
    (part,) = shard_of(fragments_of({"weight": weight}, 1, 2), codec="int8", index=2)[0].parts
    assert part.part.scales[1] - part.part.scales[0] == 4 * (32 * 32 // 256)
    written, content = shard_of(fragments_of({"weight": weight[:33]}, 0, 1), codec="int8", count=1)
    scales = torch.frombuffer(bytearray(content[slice(*written.parts[0].part.scales)]), dtype=torch.float32)
    assert scales.tolist() == pytest.approx([1 / 127] * 5)


def test_tied_fragments_are_stored_once():
    weight = torch.arange(12.0).reshape(6, 2)
    fragments = fragments_of({"embedding": weight, "decoder": weight, "other": weight.clone()}, 0, 2)
    written, _ = shard_of(fragments)
    assert written.aliases == {"decoder": "embedding"}
    assert [part.name for part in written.parts] == ["embedding", "other"]


def test_fragments_that_lie_alike_but_are_of_different_tensors_are_two():
    memory = torch.arange(4.0).reshape(2, 2)
    fragments = {
        "one": Fragment(memory, Box((0, 0), (2, 2)), (4, 2)),
        "other": Fragment(memory, Box((0, 0), (2, 2)), (3, 2)),
    }
    assert shard_of(fragments)[0].aliases == {}


def test_a_fragment_that_is_another_box_is_laid_out_anew():
    state = {"weight": torch.arange(12.0).reshape(6, 2)}
    staging = Staging(fragments_of(state, 0, 2), index=1, count=2)
    for rank, ranks in ((0, 2), (1, 2), (2, 3), (0, 2)):
        fragments = fragments_of(state, rank, ranks)
        staging.fill(fragments)
        written, content = staging.encode_shard()
        expected, fresh = shard_of(fragments)
        assert written == expected
        assert bytes(content) == bytes(fresh)


def test_fragments_alone_are_no_snapshot():
    fragments = fragments_of({"weight": torch.arange(12.0).reshape(6, 2)}, 0, 2)
    staging = Staging(fragments)
    staging.fill(fragments)
    with pytest.raises(ValueError, match="only part must have shape"):
        staging.encode()


def test_wholes_and_fragments_may_be_mixed():
    state = {"weight": torch.arange(12.0).reshape(6, 2)}
    mixed = {**fragments_of(state, 0, 2), "steps": torch.tensor(3)}
    written, _ = shard_of(mixed)
    assert [(part.name, part.shape, part.part.shape) for part in written.parts] == [
        ("steps", (), ()),
        ("weight", (6, 2), (3, 2)),
    ]
    staging = Staging(mixed)
    staging.fill(mixed)
    with pytest.raises(TypeError, match=r"state\['steps'\] must be a dense tensor"):
        staging.fill({**mixed, "steps": Fragment(None, Box((), ()), ())})
    with pytest.raises(RuntimeError, match="fill must succeed before encode"):
        staging.encode_shard()
