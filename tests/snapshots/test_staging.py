import gc
import threading
import tracemalloc

import pytest
import torch
from torch import nn

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
