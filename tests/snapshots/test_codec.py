import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from codistill.errors import SnapshotError, SnapshotFormatError, SnapshotIntegrityError
from codistill.snapshots.codec import check_codec, decode_exact, encode_exact, verify_chunk, verify_shard
from codistill.snapshots.keys import shard_name
from codistill.snapshots.tensors import CHUNK_BYTES, DTYPES, Part, Shard, TensorEntry

SETTINGS = settings(deadline=None, derandomize=True, database=None, max_examples=60)


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def is_same_to_the_bit(one, other):
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(bits(one), bits(other))


def round_trip(make_manifest, state):
    manifest, shards = make_manifest(state)
    for shard, data in zip(manifest.shards, shards, strict=True):
        verify_shard(shard, data)
    return decode_exact(manifest, shards)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (3, 4)])
def test_every_dtype_comes_back_to_the_bit(make_manifest, dtype, shape):
    generator = torch.Generator().manual_seed(0)
    size = (*shape, dtype.itemsize) if shape else (dtype.itemsize,)
    high = 2 if dtype == torch.bool else 256
    raw = torch.randint(0, high, size, dtype=torch.uint8, generator=generator)
    tensor = raw.view(dtype).reshape(shape) if raw.numel() else torch.empty(shape, dtype=dtype)
    # Beside another one, so that it does not begin at an aligned byte by chance.
    decoded = round_trip(make_manifest, {"odd": torch.zeros(3, dtype=torch.int8), "x": tensor})
    assert is_same_to_the_bit(decoded["x"], tensor)


@SETTINGS
@given(
    state=st.dictionaries(
        st.text(min_size=1, max_size=30).filter(lambda name: name != "__metadata__"),
        st.lists(st.floats(width=32), max_size=5).map(torch.tensor),
        min_size=1,
    )
)
def test_every_state_comes_back(make_manifest, state):
    decoded = round_trip(make_manifest, state)
    assert decoded.keys() == state.keys()
    assert all(is_same_to_the_bit(decoded[name], state[name]) for name in state)


def test_a_model_comes_back_with_its_buffers(make_manifest):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU())
    model(torch.randn(2, 3, 8, 8))
    decoded = round_trip(make_manifest, model.state_dict())
    assert decoded["1.num_batches_tracked"] == 1
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU())
    other.load_state_dict(decoded)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_tied_tensors_are_stored_once_and_come_back_as_one(make_manifest):
    weight = nn.Parameter(torch.randn(100, 10, generator=torch.Generator().manual_seed(0)))
    manifest, shards = make_manifest({"embedding": weight, "head": weight, "bias": torch.zeros(1)})
    assert manifest.aliases == {"head": "embedding"}
    assert [entry.name for entry in manifest.tensors] == ["bias", "embedding"]
    assert len(shards[0]) < 2 * 4000
    decoded = decode_exact(manifest, shards)
    assert decoded["head"] is decoded["embedding"]
    assert torch.equal(decoded["head"], weight.detach())
    assert not decoded["head"].requires_grad


def test_tensors_that_only_share_memory_become_copies(make_manifest):
    base = torch.arange(12.0)
    state = {
        "all": base,
        "square": base.view(3, 4),
        "transposed": base.view(3, 4).t(),
        "tail": base[4:],
        "expanded": base[:1].expand(5),
        "bits": base.view(torch.int32),
    }
    manifest, shards = make_manifest(state)
    assert manifest.aliases == {}
    decoded = decode_exact(manifest, shards)
    assert all(is_same_to_the_bit(decoded[name], state[name]) for name in state)


def test_a_view_that_negates_its_memory_is_resolved(make_manifest):
    negated = torch.conj(torch.tensor([1 + 2j, 3 - 4j])).imag
    assert negated.is_neg()
    assert round_trip(make_manifest, {"x": negated})["x"].tolist() == [-2.0, 4.0]


def test_empty_tensors_are_never_tied():
    encoded = encode_exact({"a": torch.empty(0), "b": torch.empty(0)})
    assert encoded.aliases == {}
    assert len(encoded.tensors) == 2


def test_equal_states_give_equal_bytes_and_digests(make_manifest):
    state = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(2, dtype=torch.bfloat16)}
    strided = {"a": state["a"].clone(), "b": state["b"].t().contiguous().t()}
    one, other = encode_exact(state), encode_exact(strided)
    assert one.shards[0][1] == other.shards[0][1]
    assert one.content_digest == other.content_digest == make_manifest(state)[0].content_digest
    state["b"][0, 0] += 1
    assert encode_exact(state).content_digest != one.content_digest


def test_the_manifest_points_at_the_very_bytes():
    encoded = encode_exact(
        {"a": torch.tensor([1, 2], dtype=torch.int16), "b": torch.tensor(7, dtype=torch.uint8)}
    )
    data = encoded.shards[0][1]
    found = {entry.name: data[entry.parts[0].start : entry.parts[0].end] for entry in encoded.tensors}
    assert found == {"a": b"\x01\x00\x02\x00", "b": b"\x07"}


def test_decoded_tensors_have_memory_of_their_own(make_manifest):
    manifest, shards = make_manifest({"x": torch.ones(3)})
    before = bytes(shards[0])
    decode_exact(manifest, shards)["x"].zero_()
    assert shards[0] == before
    assert decode_exact(manifest, shards)["x"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (torch.eye(2).to_sparse(), "a tensor of layout torch.sparse_coo"),
        (torch.empty(2, device="meta"), "a meta tensor, which has no values"),
        (torch.zeros(2, dtype=torch.complex64), "dtype torch.complex64"),
        (torch.zeros(2, dtype=torch.complex128), "dtype torch.complex128"),
        (nn.UninitializedParameter(), "a lazy parameter"),
        ([1.0], "list"),
        (None, "NoneType"),
    ],
)
def test_what_cannot_be_stored_is_named(value, kind):
    with pytest.raises(TypeError, match=rf"state\['layer\.x'\] must be a dense tensor.*got {kind}"):
        encode_exact({"fine": torch.zeros(1), "layer.x": value})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_a_nested_tensor_is_named():
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(TypeError, match="got a nested tensor"):
        encode_exact({"x": nested})


def test_a_subclass_of_tensor_is_named():
    class Tagged(torch.Tensor):
        pass

    with pytest.raises(TypeError, match="got a Tagged"):
        encode_exact({"x": torch.zeros(2).as_subclass(Tagged)})


def test_a_state_without_tensors_is_refused():
    with pytest.raises(ValueError, match="state must hold at least one tensor, got none"):
        encode_exact({})


@pytest.mark.parametrize(("name", "error"), [("__metadata__", ValueError), ("", ValueError), (3, TypeError)])
def test_names_that_cannot_be_stored_are_refused(name, error):
    with pytest.raises(error, match="tensor names must be"):
        encode_exact({name: torch.zeros(1)})


def test_unknown_codecs_are_refused_with_those_that_exist(make_manifest):
    assert check_codec("exact") == "exact"
    with pytest.raises(ValueError, match=r"SnapshotOptions\(codec\) must be one of 'exact', got 'int8'"):
        check_codec("int8", "SnapshotOptions(codec)")
    manifest, shards = make_manifest(codec="int8")
    with pytest.raises(
        SnapshotFormatError, match=r"must be one of 'exact', got 'int8'\. Upgrade codistill"
    ) as caught:
        decode_exact(manifest, shards)
    assert (caught.value.peer, caught.value.step) == ("a", 300)


def two_shards(make_manifest, *, second_offsets=(2, 0)):
    whole = torch.arange(12.0).view(4, 3)
    files = [save({"w": whole[:2].clone(), "b": torch.ones(2)}), save({"w": whole[2:].clone()})]
    shards = tuple(Shard.of(shard_name(i, 2), data) for i, data in enumerate(files, start=1))
    ends = [len(data) for data in files]
    first, second = (0, 0), second_offsets
    tensors = (
        TensorEntry(
            name="w",
            dtype="F32",
            shape=(4, 3),
            parts=(
                Part(shard=0, offsets=first, shape=(2, 3), start=ends[0] - 24, end=ends[0]),
                Part(shard=1, offsets=second, shape=(2, 3), start=ends[1] - 24, end=ends[1]),
            ),
        ),
        TensorEntry(
            name="b",
            dtype="F32",
            shape=(2,),
            parts=(Part(shard=0, offsets=(0,), shape=(2,), start=ends[0] - 32, end=ends[0] - 24),),
        ),
    )
    manifest, _ = make_manifest(tensors=tensors, shards=shards)
    return manifest, files, whole


def test_a_tensor_of_several_shards_is_put_together(make_manifest):
    manifest, files, whole = two_shards(make_manifest)
    decoded = decode_exact(manifest, files)
    assert torch.equal(decoded["w"], whole)
    assert torch.equal(decoded["b"], torch.ones(2))


def test_parts_that_overlap_are_refused(make_manifest):
    manifest, files, _ = two_shards(make_manifest, second_offsets=(1, 0))
    with pytest.raises(SnapshotFormatError, match="parts of tensor 'w' must not overlap"):
        decode_exact(manifest, files)


def test_the_number_of_files_must_be_that_of_the_shards(make_manifest):
    manifest, files, _ = two_shards(make_manifest)
    with pytest.raises(ValueError, match="shard_bytes must be 2 files, got 1"):
        decode_exact(manifest, files[:1])


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({"w": torch.zeros(2, dtype=torch.int32)}, "I32"),
        ({"w": torch.zeros(1, 2)}, "1, 2"),
        ({"v": torch.zeros(2)}, "F32"),
    ],
)
def test_files_that_disagree_with_the_manifest_are_refused(make_manifest, state, found):
    manifest, _ = make_manifest({"w": torch.zeros(2)})
    data = save(state)
    manifest = dataclasses.replace(
        manifest, shards=(Shard.of(shard_name(1, 1), data + b"    "[: -len(data) % 8]),)
    )
    with pytest.raises(SnapshotFormatError, match=rf"must be .* by the manifest, got .*{found}"):
        decode_exact(manifest, [data])


def test_chunks_are_verified_one_by_one():
    data = bytes(range(256)) * (CHUNK_BYTES // 256) + b"tail"
    shard = Shard.of(shard_name(1, 1), data)
    verify_chunk(shard, 0, data[:CHUNK_BYTES])
    verify_chunk(shard, 1, memoryview(data)[CHUNK_BYTES:])
    with pytest.raises(SnapshotIntegrityError, match="chunk 1 at byte 8388608") as caught:
        verify_chunk(shard, 1, b"tale", peer="a", key="a/snapshots/0-0/" + shard.name)
    assert (caught.value.peer, caught.value.key) == ("a", "a/snapshots/0-0/" + shard.name)


@SETTINGS
@given(position=st.integers(min_value=0), bit=st.integers(0, 7), size=st.integers(min_value=0))
def test_truncated_and_altered_files_are_refused(make_manifest, position, bit, size):
    manifest, (data,) = make_manifest()
    altered = bytearray(data)
    altered[position % len(data)] ^= 1 << bit
    with pytest.raises(SnapshotIntegrityError, match="is not what was published"):
        verify_shard(manifest.shards[0], bytes(altered))
    truncated = data[: size % len(data)]
    with pytest.raises(SnapshotIntegrityError, match=f"must have {len(data)} bytes, got {len(truncated)}"):
        verify_shard(manifest.shards[0], truncated, peer="a")
    with pytest.raises(SnapshotIntegrityError, match="truncated"):
        decode_exact(manifest, [truncated])


@SETTINGS
@given(garbage=st.binary(max_size=60), start=st.integers(0, 200))
def test_garbage_of_the_right_size_is_decoded_or_a_snapshot_error(make_manifest, garbage, start):
    manifest, (data,) = make_manifest()
    damaged = (data[:start] + garbage + data[start + len(garbage) :])[: len(data)]
    try:
        decoded = decode_exact(manifest, [damaged.ljust(len(data), b" ")])
    except SnapshotError as error:
        assert error.peer == "a"  # noqa: PT017 - damage to the values alone is for the digests to find
    else:
        assert {name: tuple(tensor.shape) for name, tensor in decoded.items()} == manifest.shapes
