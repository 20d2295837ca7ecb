import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, load_file, save
from torch import nn

from codistill.errors import SnapshotError, SnapshotFormatError, SnapshotIntegrityError
from codistill.snapshots.codec import (
    CODECS,
    decode,
    encode,
    first_nan,
    verify_shard,
)
from codistill.snapshots.keys import shard_name
from codistill.snapshots.manifest import Manifest
from codistill.snapshots.shards import Shard
from codistill.snapshots.tensors import DTYPES, Part, TensorEntry

SETTINGS = settings(deadline=None, derandomize=True, database=None, max_examples=60)


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def is_same_to_the_bit(one, other):
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(bits(one), bits(other))


def round_trip(make_manifest, state, codec="exact"):
    manifest, shards = make_manifest(state, codec=codec)
    for shard, data in zip(manifest.shards, shards, strict=True):
        verify_shard(shard, data)
    return decode(manifest, shards)


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
    decoded = decode(manifest, shards)
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
    decoded = decode(manifest, shards)
    assert all(is_same_to_the_bit(decoded[name], state[name]) for name in state)


def test_a_view_that_negates_its_memory_is_resolved(make_manifest):
    negated = torch.conj(torch.tensor([1 + 2j, 3 - 4j])).imag
    assert negated.is_neg()
    assert round_trip(make_manifest, {"x": negated})["x"].tolist() == [-2.0, 4.0]


def test_a_view_that_negates_its_memory_is_not_tied_to_it(make_manifest):
    values = torch.tensor([1 + 2j, 3 - 4j])
    decoded = round_trip(make_manifest, {"x": values.imag, "negated": torch.conj(values).imag})
    assert decoded["x"].tolist() == [2.0, -4.0]
    assert decoded["negated"].tolist() == [-2.0, 4.0]


@pytest.mark.parametrize("codec", CODECS)
def test_strides_are_forgotten(make_manifest, codec):
    images = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    state = {
        "channels_last": images.to(memory_format=torch.channels_last),
        "transposed": images.transpose(1, 3),
        "every_second": images.flatten()[::2],
    }
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    one, other = round_trip(make_manifest, state, codec), round_trip(make_manifest, contiguous, codec)
    assert all(is_same_to_the_bit(one[name], other[name]) for name in state)
    assert all(tensor.is_contiguous() for tensor in one.values())
    if codec == "exact":
        assert all(is_same_to_the_bit(one[name], state[name]) for name in state)


FLOATING = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1023,), (32, 32), (5, 257)])
@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_gives_every_dtype_and_shape_back(make_manifest, codec, shape, dtype):
    values = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    decoded = round_trip(make_manifest, {"odd": torch.zeros(3, dtype=torch.int8), "x": values}, codec)["x"]
    # 0 and 1 are what no codec rounds: 127 times 1 / 127 is 1 again.
    assert is_same_to_the_bit(decoded, values)


@pytest.mark.parametrize("codec", CODECS)
def test_what_a_codec_rounds_is_what_the_format_says(make_manifest, codec):
    state = {f"{dtype}.{n}": torch.zeros(n).to(dtype) for dtype in DTYPES.values() for n in (1023, 1024)}
    manifest, _ = make_manifest(state, codec=codec)
    stored = {entry.name: entry.stored for entry in manifest.tensors if entry.stored is not None}
    assert (
        stored
        == {
            "exact": {},
            "bfloat16": {f"{dtype}.1024": "BF16" for dtype in (torch.float32, torch.float64)},
            "int8": {f"{dtype}.1024": "I8" for dtype in FLOATING},
        }[codec]
    )


NUMBERS = st.floats(
    width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100
)


@SETTINGS
@given(
    values=st.lists(NUMBERS, min_size=1, max_size=40), dtype=st.sampled_from([torch.float32, torch.float64])
)
def test_bfloat16_is_off_by_one_in_256_at_most(make_manifest, values, dtype):
    x = torch.tensor(values, dtype=dtype).repeat(1024)
    decoded = round_trip(make_manifest, {"x": x}, "bfloat16")["x"]
    # Below its smallest normal number the error is absolute.
    assert ((decoded - x).abs() <= x.abs() * 2**-8 + 2**-133).all()
    assert torch.equal(decoded, x.float().bfloat16().to(dtype))


@SETTINGS
@given(
    values=st.lists(NUMBERS, min_size=1, max_size=40),
    elements=st.integers(1024, 1400),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_int8_is_off_by_half_a_scale_at_most(make_manifest, values, elements, dtype):
    x = torch.tensor(values, dtype=dtype).repeat(elements)[:elements]
    decoded = round_trip(make_manifest, {"x": x}, "int8")["x"]
    blocks = zip(x.split(256), decoded.split(256), strict=True)
    for block, result in blocks:
        half = block.abs().max() / 127 / 2
        # The quotient and the product are rounded to float32; so are scales below its normal numbers.
        assert ((block - result).abs() <= half * (1 + 1e-4) + 127 * 2**-149).all()


def test_a_block_that_int8_cannot_hold_is_seen_by_whoever_reads_it(make_manifest):
    x = torch.ones(4, 256)
    x[0, 3], x[2, 5] = torch.nan, -torch.inf
    decoded = round_trip(make_manifest, {"x": x}, "int8")["x"]
    assert decoded[[0, 2]].isnan().all()
    assert torch.equal(decoded[[1, 3]], x[[1, 3]])
    assert first_nan({"x": decoded}) == "x"


def test_parts_are_quantised_one_by_one(make_manifest):
    whole = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    # Each part is large enough alone, so that it is quantised as if it were a tensor.
    halves = [make_manifest({"w": half.repeat(2, 1)}, codec="int8") for half in whole.split(20)]
    manifest, _ = halves[0]
    parts = tuple(
        dataclasses.replace(half.tensors[0].parts[0], shard=i, offsets=(40 * i, 0))
        for i, (half, _) in enumerate(halves)
    )
    manifest = dataclasses.replace(
        manifest,
        tensors=(dataclasses.replace(manifest.tensors[0], shape=(80, 30), parts=parts),),
        shards=tuple(
            dataclasses.replace(half.shards[0], name=shard_name(i, 2))
            for i, (half, _) in enumerate(halves, 1)
        ),
    )
    decoded = decode(manifest, [file for _, (file,) in halves])["w"]
    assert torch.equal(decoded, torch.cat([decode(half, file)["w"] for half, file in halves]))


@pytest.mark.parametrize("codec", CODECS)
def test_other_readers_of_safetensors_read_the_file(tmp_path, codec):
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    ((_, content),) = encode({"x": x, "steps": torch.tensor(3)}, codec).shards
    (tmp_path / "file.safetensors").write_bytes(content)
    read = load_file(tmp_path / "file.safetensors")
    assert read["steps"] == 3
    assert read.keys() == {"x", "steps"} | ({"x::scales"} if codec == "int8" else set())
    if codec == "int8":
        values = read["x"].float() * read["x::scales"].repeat_interleave(256)[:2000]
        assert read["x::scales"].shape == (8,)
    else:
        values = read["x"].float()
    assert torch.allclose(values, x, atol=0.03, rtol=0)


def test_empty_tensors_are_never_tied():
    encoded = encode({"a": torch.empty(0), "b": torch.empty(0)})
    assert encoded.aliases == {}
    assert len(encoded.tensors) == 2


def test_equal_states_give_equal_bytes_and_digests(make_manifest):
    state = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(2, dtype=torch.bfloat16)}
    strided = {"a": state["a"].clone(), "b": state["b"].t().contiguous().t()}
    one, other = encode(state), encode(strided)
    assert one.shards[0][1] == other.shards[0][1]
    assert one.content_digest == other.content_digest == make_manifest(state)[0].content_digest
    state["b"][0, 0] += 1
    assert encode(state).content_digest != one.content_digest


def test_the_manifest_points_at_the_very_bytes():
    encoded = encode({"a": torch.tensor([1, 2], dtype=torch.int16), "b": torch.tensor(7, dtype=torch.uint8)})
    data = encoded.shards[0][1]
    found = {entry.name: data[entry.parts[0].start : entry.parts[0].end] for entry in encoded.tensors}
    assert found == {"a": b"\x01\x00\x02\x00", "b": b"\x07"}


def test_what_is_decoded_from_bytes_has_memory_of_its_own(make_manifest):
    manifest, shards = make_manifest({"x": torch.ones(3)})
    before = bytes(bytearray(shards[0]))
    for content in (shards[0], memoryview(shards[0]), memoryview(bytearray(before)).toreadonly()):
        decode(manifest, [content])["x"].zero_()
        assert content == before
    assert decode(manifest, shards)["x"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("as_content", [bytearray, lambda data: memoryview(bytearray(data)), None])
def test_what_is_decoded_from_writable_memory_is_a_view_of_it(make_manifest, as_content):
    state = {"x": torch.ones(3), "y": torch.zeros(2, 2, dtype=torch.int64)}
    manifest, (data,) = make_manifest(state)
    content = torch.frombuffer(bytearray(data), dtype=torch.uint8) if as_content is None else as_content(data)
    decode(manifest, [content])["x"].fill_(5)
    again = decode(manifest, [content])
    assert again["x"].tolist() == [5, 5, 5]
    assert torch.equal(again["y"], state["y"])


@pytest.mark.parametrize(("odd_address", "odd_offset"), [(1, 0), (0, 1), (1, 7)])
def test_contents_at_odd_bytes_are_decoded(make_manifest, odd_address, odd_offset):
    manifest, (data,) = make_manifest({"x": torch.arange(3.0), "n": torch.tensor(7)})
    memory = torch.frombuffer(
        bytearray(odd_address + odd_offset) + data, dtype=torch.uint8, offset=odd_address
    )
    decoded = decode(manifest, [memory[odd_offset:]])
    assert decoded["x"].data_ptr() % 4 == decoded["n"].data_ptr() % 8 == 0
    assert (decoded["x"].tolist(), decoded["n"].item()) == ([0, 1, 2], 7)


def test_tensors_at_odd_bytes_of_the_file_are_decoded(make_manifest):
    manifest, (data,) = make_manifest({"x": torch.arange(3.0), "n": torch.tensor(7)})
    # A header of 8n + 1 bytes, as the format allows.
    length = int.from_bytes(data[:8], "little") + 1
    shifted = length.to_bytes(8, "little") + data[8 : 7 + length] + b" " + data[7 + length :]
    tensors = tuple(
        dataclasses.replace(
            entry,
            parts=(
                dataclasses.replace(
                    entry.parts[0], start=entry.parts[0].start + 1, end=entry.parts[0].end + 1
                ),
            ),
        )
        for entry in manifest.tensors
    )
    manifest = dataclasses.replace(manifest, tensors=tensors, shards=(Shard.of(shard_name(1, 1), shifted),))
    decoded = decode(manifest, [shifted])
    assert (decoded["x"].tolist(), decoded["n"].item()) == ([0, 1, 2], 7)


@pytest.mark.parametrize("content", [torch.zeros(3), torch.zeros(2, 2, dtype=torch.uint8)])
def test_contents_that_are_no_bytes_are_refused(make_manifest, content):
    manifest, _ = make_manifest()
    with pytest.raises(TypeError, match="contents must be bytes or 1-D uint8 tensors on the CPU, got torch"):
        decode(manifest, [content])


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
        encode({"fine": torch.zeros(1), "layer.x": value})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_a_nested_tensor_is_named():
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(TypeError, match="got a nested tensor"):
        encode({"x": nested})


def test_a_subclass_of_tensor_is_named():
    class Tagged(torch.Tensor):
        pass

    with pytest.raises(TypeError, match="got a Tagged"):
        encode({"x": torch.zeros(2).as_subclass(Tagged)})


def test_a_state_without_tensors_is_refused():
    with pytest.raises(ValueError, match="state must hold at least one tensor, got none"):
        encode({})


@pytest.mark.parametrize(("name", "error"), [("__metadata__", ValueError), ("", ValueError), (3, TypeError)])
def test_names_that_cannot_be_stored_are_refused(name, error):
    with pytest.raises(error, match="tensor names must be"):
        encode({name: torch.zeros(1)})


def test_codecs_to_come_are_refused_with_those_that_exist(make_manifest):
    manifest, shards = make_manifest(codec="int4")
    with pytest.raises(
        SnapshotFormatError,
        match=r"must be one of 'exact', 'bfloat16', 'int8', got 'int4'\. Upgrade codistill here",
    ) as caught:
        decode(manifest, shards)
    assert (caught.value.peer, caught.value.step) == ("a", 300)
    with pytest.raises(ValueError, match="codec must be one of 'exact', 'bfloat16', 'int8', got 'int4'"):
        encode({"x": torch.zeros(1)}, "int4")


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
    decoded = decode(manifest, files)
    assert torch.equal(decoded["w"], whole)
    assert torch.equal(decoded["b"], torch.ones(2))


def test_parts_that_overlap_are_refused(make_manifest):
    manifest, files, _ = two_shards(make_manifest, second_offsets=(1, 0))
    with pytest.raises(SnapshotFormatError, match="parts of tensor 'w' must not overlap"):
        decode(manifest, files)


def test_the_number_of_files_must_be_that_of_the_shards(make_manifest):
    manifest, files, _ = two_shards(make_manifest)
    with pytest.raises(ValueError, match="contents must be 2 files, got 1"):
        decode(manifest, files[:1])


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
        decode(manifest, [data])


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
        decode(manifest, [truncated])


@SETTINGS
@given(codec=st.sampled_from(CODECS), garbage=st.binary(max_size=60), start=st.integers(0, 400))
def test_garbage_of_the_right_size_is_decoded_or_a_snapshot_error(make_manifest, codec, garbage, start):
    manifest, (data,) = make_manifest({"x": torch.ones(1100), "n": torch.tensor(3)}, codec=codec)
    damaged = (data[:start] + garbage + data[start + len(garbage) :])[: len(data)]
    try:
        decoded = decode(manifest, [damaged.ljust(len(data), b" ")])
    except SnapshotError as error:
        assert error.peer == "a"  # noqa: PT017 - damage to the values alone is for the digests to find
    else:
        assert {name: tuple(tensor.shape) for name, tensor in decoded.items()} == manifest.shapes


def file_of(header, values):
    text = header.encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + values


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "header that lies within the file, got 8 bytes"),
        (b"\xff" * 16, "header that lies within the file"),
        ((10**9).to_bytes(8, "little") + b"{}", "header that lies within the file"),
        (file_of("[]", b""), "the header of a safetensors file, got something else"),
        (file_of('{"x": 1}', b""), "the header of a safetensors file, got something else"),
        (file_of('{"x": ' + "[" * 100_000, b""), "the header of a safetensors file, got something else"),
        (
            file_of('{"x": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}', bytes(4)),
            "something else",
        ),
        (file_of('{"x": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}', bytes(4)), "something else"),
        (file_of("{}", bytes(4)), "'x' in .* must be F32 .* by the manifest, got absent"),
    ],
)
def test_files_that_are_no_safetensors_are_refused(make_manifest, data, message):
    manifest, _ = make_manifest({"x": torch.zeros(1)})
    if data:
        part = Part(shard=0, offsets=(0,), shape=(1,), start=max(len(data) - 4, 0), end=max(len(data), 4))
        data = data.ljust(4)
    else:
        part = Part(shard=0, offsets=(0,), shape=(0,), start=0, end=0)
    manifest = dataclasses.replace(
        manifest,
        tensors=(TensorEntry(name="x", dtype="F32", shape=part.shape, parts=(part,)),),
        shards=(Shard.of(shard_name(1, 1), data),),
    )
    with pytest.raises(SnapshotFormatError, match=message):
        decode(manifest, [data])


def test_bytes_that_belong_to_no_tensor_are_refused(make_manifest):
    manifest, (data,) = make_manifest({"x": torch.zeros(1)})
    longer = data + b"    "
    manifest = dataclasses.replace(manifest, shards=(Shard.of(shard_name(1, 1), longer),))
    with pytest.raises(SnapshotFormatError, match="must be a header and then its tensors without a gap"):
        decode(manifest, [longer])


def test_tensors_within_the_header_are_refused(make_manifest):
    data = file_of('{"x": {"dtype": "U8", "shape": [8], "data_offsets": [-8, 0]}}', bytes(8))
    start = len(data) - 16
    part = Part(shard=0, offsets=(0,), shape=(8,), start=start, end=start + 8)
    manifest, _ = make_manifest(
        tensors=(TensorEntry(name="x", dtype="U8", shape=(8,), parts=(part,)),),
        shards=(Shard.of(shard_name(1, 1), data),),
    )
    with pytest.raises(SnapshotFormatError, match=f"got {start + 8} bytes, 8 from byte {start} on"):
        decode(manifest, [data])


@SETTINGS
@given(data=st.data(), codec=st.sampled_from(CODECS))
def test_any_number_in_a_manifest_gives_a_state_or_a_snapshot_error(make_manifest, data, codec):
    manifest, (content,) = make_manifest({"x": torch.ones(2, 600), "n": torch.tensor(3)}, codec=codec)
    document = json.loads(manifest.to_json())
    place = data.draw(st.sampled_from(document["tensors"]))
    number = st.integers(0, len(content)) | st.integers(0, 2**62)
    if data.draw(st.booleans()):
        place["dtype"] = data.draw(st.sampled_from(list(DTYPES)))
    if data.draw(st.booleans()):
        place["shape"] = data.draw(st.lists(number, max_size=3))
    if data.draw(st.booleans()):
        place["stored"] = data.draw(st.sampled_from(["BF16", "I8"]))
    for field in ("bytes", "scales", "shape", "offsets"):
        if data.draw(st.booleans()):
            place["parts"][0][field] = data.draw(st.lists(number, max_size=2))
    try:
        changed = Manifest.from_json(json.dumps(document).encode(), key=manifest.key)
        decoded = decode(changed, [content])
    except SnapshotError as error:
        assert error.key == manifest.key  # noqa: PT017 - what is still a snapshot is fine too
    else:
        assert {name: tuple(tensor.shape) for name, tensor in decoded.items()} == changed.shapes
        assert sum(tensor.nbytes for tensor in decoded.values()) == changed.decoded_bytes


def test_scales_that_the_file_does_not_have_are_refused(make_manifest):
    x = torch.arange(1024.0)
    manifest, (data,) = make_manifest({"x": x}, codec="int8")
    renamed = data.replace(b"x::scales", b"x::Scales")
    with pytest.raises(
        SnapshotFormatError, match=r"'x::Scales' in .* must be absent by the manifest, got F32"
    ):
        decode(manifest, [renamed])
    assert load(data)["x::scales"].shape == (4,)


@pytest.mark.parametrize("dtype", [d for d in DTYPES.values() if d.is_floating_point])
@pytest.mark.parametrize("shape", [(), (5,), (300, 301)])
def test_nan_is_found_in_every_floating_dtype(dtype, shape):
    clean = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    dirty = clean.clone()
    dirty.view(-1)[-1] = torch.nan
    assert first_nan({"n": torch.tensor(1), "clean": clean, "dirty": dirty, "more": dirty}) == "dirty"
    # The highest byte of each, which has the sign.
    negative = dirty.view(-1).clone()
    negative.view(torch.uint8)[dtype.itemsize - 1 :: dtype.itemsize] |= 128
    assert first_nan({"negative": negative}) == "negative"
    assert first_nan({"clean": clean}) is None


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_pattern_of_8_bits_is_judged_as_torch_judges_it(dtype):
    for pattern in torch.arange(256, dtype=torch.uint8).view(dtype).split(1):
        assert (first_nan({"x": pattern}) == "x") == pattern.float().isnan().item()


@pytest.mark.parametrize("dtype", FLOATING)
def test_the_pattern_beside_infinity_is_nan(dtype):
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    pattern = torch.tensor([torch.inf], dtype=dtype).view(integer) + 1
    assert first_nan({"x": pattern.view(dtype)}) == "x"


def test_nan_is_found_whatever_the_strides():
    x = torch.zeros(300, 400)
    x[299, 399] = torch.nan
    assert first_nan({"transposed": x.t()}) == "transposed"
    assert first_nan({"every_second": x[1::2, 1::2]}) == "every_second"
    assert first_nan({"every_other": x[::2, ::2]}) is None
    assert first_nan({"parameter": nn.Parameter(x)}) == "parameter"
    complex_with_nan = torch.tensor([complex(1, torch.nan)])
    assert first_nan({"negated": torch.conj(complex_with_nan).imag}) == "negated"


def test_infinities_integers_and_nothing_are_no_nan():
    infinite = [torch.tensor([-torch.inf, torch.inf]).to(dtype) for dtype in FLOATING]
    state = {str(i): tensor for i, tensor in enumerate(infinite)}
    state |= {"all_ones": torch.tensor(-1), "empty": torch.empty(0, 3), "false": torch.tensor(False)}
    assert first_nan(state) is None
    assert first_nan({}) is None


THREADS = """
import threading, torch
from pathlib import Path
from codistill.snapshots.codec import first_nan
from codistill.snapshots.precision import convert, dequantise
from codistill.snapshots.staging import Staging
count = lambda: len(list(Path("/proc/self/task").iterdir()))
torch.set_num_threads(2)
state = {"x": torch.ones(2000, 1000), "y": torch.ones(2000, 1000, dtype=torch.bfloat16)}
staging = Staging(state, codec="int8")
staging.fill(state)
quantised, scales = torch.ones(2_000_000, dtype=torch.int8), torch.ones(8000)
rounded, values = torch.ones(2_000_000, dtype=torch.bfloat16), torch.empty(2_000_000)
found = []
def background():
    # Work in slices must not have started torch's threads for this one, as anything larger does.
    before = count()
    staging.encode()
    first_nan(state)
    dequantise(quantised, scales, out=values)
    convert(rounded, out=values)
    found.append(count() - before)
    state["x"].abs()
    found.append(count() - before)
thread = threading.Thread(target=background)
thread.start()
thread.join()
print(found)
"""


@pytest.mark.spawn
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs the threads that Linux lists")
def test_a_background_thread_wakes_no_threads_of_torch():
    done = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[0, 1]\n"
