"""Whatever lies in a store: its readers return what could have been written, or raise a SnapshotError."""

import copy
import json
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from codistill.errors import SnapshotError
from codistill.snapshots.codec import decode, encode
from codistill.snapshots.keys import shard_name
from codistill.snapshots.manifest import Manifest, ManifestReference
from codistill.snapshots.pointer import Pointer
from codistill.snapshots.run import Run
from codistill.snapshots.shards import Shard
from codistill.snapshots.signing import SigningKey
from codistill.snapshots.status import Status
from codistill.snapshots.tensors import DTYPES

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SIGNING_KEY = SigningKey(secret=b"k" * 32)
LONGEST_MESSAGE = 2000
# What decoding takes beside the tensors themselves: the float32 values of some thousand blocks.
SLICE_BYTES = 2**18

POINTER = Pointer(
    run_id="c0ffee",
    peer="a",
    incarnation=1,
    sequence=2,
    manifest=ManifestReference(key="a/snapshots/1-2/manifest.json", size_bytes=100, sha256="0" * 64),
)
STATUS = Status(
    run_id="c0ffee",
    peer="a",
    incarnation=1,
    heartbeat=5,
    step=100,
    samples=3200,
    task_loss=0.25,
    distillation_loss=None,
    state="running",
    reading={"b": (0, 3), "c": (1, 0)},
)


def read_or_refuse(read, *, key):
    """Return what is read, None if it is refused as it should be."""
    try:
        return read()
    except SnapshotError as refused:
        error = refused
    assert error.key == key
    assert str(error).isprintable()
    assert len(str(error)) < LONGEST_MESSAGE
    return None


class Reader:
    """One kind of document: a valid one, and how it is read."""

    def __init__(self, parse, document, key):
        self.parse, self.document, self.key = parse, document, key

    def read(self, data):
        return read_or_refuse(lambda: self.parse(data, key=self.key), key=self.key)

    def read_and_write(self, data):
        """Read, and check that what is accepted is something that could have been written."""
        value = self.read(data)
        if value is not None:
            content = value.to_json()
            assert self.parse(content, key=self.key) == value
            integers = {
                name for name, number in numbers(parsed(self.document.to_json())) if type(number) is int
            }
            for name, number in numbers(parsed(content)):
                assert name not in integers or (type(number) is int and 0 <= number < 2**63)


def numbers(value, name=""):
    """Yield every number of the format's own fields with the name of its field, and every boolean."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("metadata", "task_loss", "distillation_loss"):
                yield from numbers(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, name)
    elif isinstance(value, int | float):
        yield name, value


@pytest.fixture(scope="session", params=["pointer", "status", "run", "manifest"])
def reader(request, make_manifest):
    match request.param:
        case "pointer":
            return Reader(Pointer.from_json, POINTER, "a/latest.json")
        case "status":
            return Reader(Status.from_json, STATUS, "a/status.json")
        case "run":
            return Reader(Run.from_json, Run(run_id="c0ffee"), "run.json")
        case "manifest":
            manifest = rich_manifest(make_manifest)
            return Reader(Manifest.from_json, manifest, manifest.key)


def rich_manifest(make_manifest):
    """Return a manifest in which no field is empty."""
    previous = ManifestReference(key="a/snapshots/0-7/manifest.json", size_bytes=50, sha256="1" * 64)
    manifest, _ = make_manifest(previous=previous, metadata={"arch": "mlp", "widths": [8, {"deep": 0.5}]})
    return manifest


HOSTILE = [
    *(None, True, 0, 1, 1.0, -0.0, 5e-324, 1e308, math.nan, math.inf, -math.inf),
    *(2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**400, -1, -(2**63)),
    *("", "\x00", "\ud800", "\u202e\x1b[2J", "\u0661", "a\n", "..", "../../etc/passwd", "__metadata__"),
    *([], {}, [[]], [{}], {"": {}}, [None] * 40, [0] * 40, {str(i): i for i in range(300)}),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


class Repeated(dict):
    """An object in which one field is written twice; json writes what `items` gives."""

    def items(self):
        pairs = list(super().items())
        return pairs + pairs[:1]


def places(document):
    """Return every place in a parsed document as the object or array and the key or index in it."""
    found, holders = [], [document]
    for holder in holders:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        found += [(holder, key) for key in keys]
        holders += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    return found


def substitutes(value):
    """Return values to put in place of one that is right: the usual suspects, and those close to it."""
    close = [[value], {"": value}, [value, value]]
    if isinstance(value, dict):
        close += [Repeated(value), *({**value, name + " ": value[name]} for name in value)]
        close += [{other: value[other] for other in value if other != name} for name in value]
    elif isinstance(value, list):
        close += [value[:-1], value[1:], value[::-1], value + value[:1], value + value]
    elif isinstance(value, str):
        middle = len(value) // 2
        close += [value + "\n", value[:-1], value.upper(), value * 3, value.replace("1", "\u0661")]
        close += [value[:middle] + "/" + value[middle:], value[:middle] + "0" + value[middle + 1 :]]
    elif isinstance(value, bool):
        close += [not value, int(value)]
    elif isinstance(value, int | float):
        close += [value + 1, value - 1, -value, value * 2, value * 2**31, float(min(value, 1e9)), str(value)]
    return [*HOSTILE, *close]


def changes(document):
    """Yield a parsed document with each of its fields changed in every way; one object, changed in place."""
    for holder, place in places(document):
        value = holder[place]
        for substitute in substitutes(value):
            holder[place] = substitute
            yield document
        holder[place] = value
    for name in list(document):
        value = document.pop(name)
        yield document
        document[name] = value


@st.composite
def mutated(draw, document):
    """Change a parsed document in one to four places."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 4))):
        found = places(document)
        if not found:
            break
        holder, place = draw(st.sampled_from(found))
        other_holder, other_place = draw(st.sampled_from(found))
        value = draw(st.sampled_from(substitutes(holder[place])) | st.just(other_holder[other_place]) | JSON)
        holder[place] = copy.deepcopy(value)
    return document


def parsed(data):
    """Return a document as values, a pointer's body with it."""
    document = json.loads(data)
    if "body" in document:
        document["body"] = json.loads(document["body"])
    return document


def written(document):
    """Write values as bytes: NaN, lone surrogates and huge numbers too."""
    document = dict(document)
    if isinstance(document.get("body"), dict):
        document["body"] = json.dumps(document["body"])
    return json.dumps(document).encode()


def splices(data):
    """Return a strategy of the bytes with one stretch of them replaced."""
    stretch = st.sampled_from(
        [b"", b'"', b"\\", b"\xff", b"\x00", b"}", b"[" * 50, b"1e999", b"-", b"\\ud800"]
    )
    return st.builds(
        lambda start, length, middle: data[:start] + middle + data[start + length :],
        st.integers(0, len(data)),
        st.integers(0, 20) | st.integers(0, len(data)),
        stretch | st.binary(max_size=20),
    )


@SETTINGS
@given(data=st.data())
def test_random_bytes_are_refused(reader, data):
    assert reader.read(data.draw(st.binary(max_size=200))) is None


@SETTINGS
@given(data=st.data())
def test_random_json_is_refused(reader, data):
    assert reader.read(json.dumps(data.draw(JSON)).encode()) is None


def test_a_document_with_one_changed_field_is_refused_or_means_what_it_says(reader):
    for document in changes(parsed(reader.document.to_json())):
        reader.read_and_write(written(document))


@SETTINGS
@given(data=st.data())
def test_a_document_with_changed_fields_is_refused_or_means_what_it_says(reader, data):
    document = data.draw(mutated(parsed(reader.document.to_json())))
    reader.read_and_write(written(document))


@SETTINGS
@given(data=st.data())
def test_a_document_with_changed_bytes_is_refused_or_means_what_it_says(reader, data):
    reader.read_and_write(data.draw(splices(reader.document.to_json())))


def test_a_signed_pointer_is_the_one_that_was_signed_or_refused():
    envelope = json.loads(POINTER.to_json(signing_key=SIGNING_KEY))
    body = json.loads(envelope["body"])
    contents = [json.dumps(changed).encode() for changed in changes(dict(envelope))]
    contents += [written({**envelope, "body": changed}) for changed in changes(body)]
    for content in contents:
        pointer = read_or_refuse(
            lambda: Pointer.from_json(content, key="a/latest.json", signing_key=SIGNING_KEY),  # noqa: B023
            key="a/latest.json",
        )
        assert pointer in (None, POINTER)


@pytest.mark.parametrize(
    "item",
    ["[]", "{}", '{"a":0}', "0", "0.5", '"ab"', '"\\ud800"', "1" * 4000, "[" * 60],
    ids=lambda item: item[:8],
)
def test_memory_is_bounded_by_a_multiple_of_the_document(reader, item):
    bound = 2**18
    for document in (
        "[" + ",".join([item] * (bound // (len(item) + 1))) + "]",
        '{"' + "k" * bound + '": ' + item + "}",
        item * (bound // len(item)),
    ):
        content = written({**parsed(reader.document.to_json()), "metadata": None, "reading": None})
        content = content.replace(b"null", document.encode())
        tracemalloc.start()
        try:
            reader.read(content)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 60 * len(content) + 2**20


class LargestStorage(TorchDispatchMode):
    """Notes the largest memory that a tensor has while it is entered."""

    def __init__(self):
        super().__init__()
        self.size_bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.size_bytes = max(self.size_bytes, result.untyped_storage().nbytes())
        return result


def decode_or_refuse(manifest, contents):
    """Decode, within the memory that a manifest may ask for; None if it was refused as it should be."""
    assert manifest.decoded_bytes <= 8 * manifest.total_bytes
    with LargestStorage() as largest:
        state = read_or_refuse(lambda: decode(manifest, contents), key=manifest.key)
    assert largest.size_bytes <= manifest.decoded_bytes + manifest.total_bytes + SLICE_BYTES
    if state is not None:
        assert {name: tuple(tensor.shape) for name, tensor in state.items()} == manifest.shapes
        for entry in manifest.tensors:
            assert state[entry.name].dtype == DTYPES[entry.dtype]
            assert np.all(times_covered(entry) == 1)
    return state


def times_covered(entry):
    """Return how many parts each element of a tensor is in."""
    count = np.zeros(entry.shape if math.prod(entry.shape) else 0, dtype=int)
    for part in entry.parts:
        if count.size:
            box = zip(part.offsets, part.shape, strict=True)
            count[tuple(slice(offset, offset + size) for offset, size in box)] += 1
    return count


def header_of(content):
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def with_header(content, header, *, size=None):
    """Return a safetensors file with another header, as long as the one it had if it fits."""
    old_size = int.from_bytes(content[:8], "little")
    text = (header if isinstance(header, bytes) else json.dumps(header).encode()).ljust(old_size)
    size = len(text) if size is None else size
    return (size % 2**64).to_bytes(8, "little") + text + content[8 + old_size :]


def republished(manifest, contents):
    """Return the manifest of other files, whose digests agree with them."""
    shards = tuple(
        Shard.of(shard.name, content) for shard, content in zip(manifest.shards, contents, strict=True)
    )
    return replace(manifest, shards=shards)


@pytest.fixture(scope="session", params=["exact", "bfloat16", "int8", "in two parts"])
def snapshot(request, make_manifest):
    """A manifest and the content of its shards."""
    if request.param == "in two parts":
        return in_two_parts(make_manifest)
    large = torch.linspace(-1, 1, 1100).reshape(11, 100)
    state = {"large": large, "tied": large, "steps": torch.tensor(7), "is_so": torch.tensor([True, False])}
    manifest, contents = make_manifest({**state, "empty": torch.empty(0, 3)}, codec=request.param)
    return manifest, [bytes(content) for content in contents]


def in_two_parts(make_manifest):
    """Return a snapshot of one tensor whose rows lie in two shards, with its scales."""
    whole = torch.linspace(-1, 1, 2400).reshape(24, 100)
    halves = [encode({"weight": half.contiguous()}, "int8") for half in (whole[:12], whole[12:])]
    shards = tuple(
        replace(encoded.shards[0][0], name=shard_name(index, 2)) for index, encoded in enumerate(halves, 1)
    )
    parts = tuple(
        replace(encoded.tensors[0].parts[0], shard=index, offsets=(12 * index, 0))
        for index, encoded in enumerate(halves)
    )
    entry = replace(halves[0].tensors[0], shape=(24, 100), parts=parts)
    manifest, _ = make_manifest({"weight": whole}, codec="int8", tensors=(entry,), shards=shards)
    return manifest, [bytes(encoded.shards[0][1]) for encoded in halves]


def test_the_snapshots_that_are_mutated_are_decoded(snapshot):
    assert decode_or_refuse(*snapshot) is not None


def decode_file_or_refuse(snapshot, changed):
    """Decode a snapshot of which the first file is another one that its manifest's digests agree with."""
    manifest, contents = snapshot
    hostile = [changed, *contents[1:]]
    try:
        agreeing = republished(manifest, hostile)
    except ValueError:
        return  # the file is too short for what the manifest says
    state = decode_or_refuse(agreeing, hostile)
    if state is not None:
        assert all(torch.equal(tensor, state[name]) for name, tensor in decode(manifest, contents).items())


def test_a_file_with_one_change_in_its_header_is_refused_or_gives_the_same_tensors(snapshot):
    content = snapshot[1][0]
    header = header_of(content)
    for changed in changes(copy.deepcopy(header)):
        decode_file_or_refuse(snapshot, with_header(content, changed))
    for size in (0, 1, 7, 2**31, 2**63, 2**64 - 1, 2**64 - 8):
        decode_file_or_refuse(snapshot, with_header(content, header, size=size))


@SETTINGS
@given(data=st.data())
def test_a_file_with_a_changed_header_is_refused_or_gives_the_same_tensors(snapshot, data):
    content = snapshot[1][0]
    header = header_of(content)
    changed = data.draw(mutated(header) | splices(json.dumps(header).encode()))
    decode_file_or_refuse(snapshot, with_header(content, changed))


def decode_manifest_or_refuse(snapshot, changed):
    """Decode the files of a snapshot by a manifest in which some fields are others."""
    manifest, contents = snapshot
    document = written({**json.loads(manifest.to_json()), **changed})
    hostile = read_or_refuse(lambda: Manifest.from_json(document, key=manifest.key), key=manifest.key)
    if hostile is not None and len(hostile.shards) == len(contents):
        decode_or_refuse(hostile, contents)


FIELDS_FOR_DECODING = ("codec", "tensors", "aliases", "shards")


def test_a_manifest_with_one_change_is_refused_or_decoded_within_its_files(snapshot):
    document = json.loads(snapshot[0].to_json())
    for changed in changes({name: document[name] for name in FIELDS_FOR_DECODING}):
        decode_manifest_or_refuse(snapshot, changed)


@SETTINGS
@given(data=st.data())
def test_a_changed_manifest_is_refused_or_decoded_within_its_files(snapshot, data):
    document = json.loads(snapshot[0].to_json())
    name = data.draw(st.sampled_from(FIELDS_FOR_DECODING))
    decode_manifest_or_refuse(snapshot, data.draw(mutated({name: document[name]})))


# Pairs of a published dtype and the one in the file.
PAIRS = [
    *((dtype, dtype) for dtype in DTYPES),
    *(("F64", "BF16"), ("F32", "BF16"), ("F64", "I8"), ("F32", "I8"), ("F16", "I8"), ("BF16", "I8")),
]
SIZES = st.sampled_from([0, 1, 2, 3, 257, 1024, 2**20, 2**31, 2**62, 2**63 - 1])


@settings(SETTINGS, max_examples=400)
@given(data=st.data())
def test_a_manifest_and_a_header_that_lie_alike_take_no_more_memory_than_their_file(make_manifest, data):
    dtype, stored = data.draw(st.sampled_from(PAIRS))
    shape = data.draw(st.lists(SIZES, max_size=4))
    count = math.prod(shape)
    end = count * DTYPES[stored].itemsize
    stored_entries = {"": (stored, shape, 0, end)}
    if stored == "I8":
        blocks = data.draw(st.sampled_from([-(-count // 256), 0, 1, count]))
        # Beside the values as it should be, or on them.
        start = data.draw(st.sampled_from([end, end, 0]))
        stored_entries["::scales"] = ("F32", [blocks], start, start + 4 * blocks)
    # Under one name, or under many that all lie on the same bytes.
    names = [f"weight.{i}" for i in range(data.draw(st.sampled_from([1, 1, 20])))]
    header = {
        name + suffix: {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        for name in names
        for suffix, (dtype, shape, start, end) in stored_entries.items()
    }
    body_bytes = min(
        2**16, max(end for *_, end in stored_entries.values()) + data.draw(st.sampled_from([0, 0, 1]))
    )
    content = with_header(bytes(8 + body_bytes), header)
    first = len(content) - body_bytes
    part = {"shard": 0, "offsets": [0] * len(shape), "shape": shape, "bytes": [first, first + end]}
    if stored == "I8":
        part["scales"] = [first + start for start in stored_entries["::scales"][2:]]
    entry = {"dtype": dtype, "shape": shape, "parts": [part]} | (
        {"stored": stored} if stored != dtype else {}
    )
    document = {
        **json.loads(make_manifest()[0].to_json()),
        "codec": {"BF16": "bfloat16", "I8": "int8"}.get(entry.get("stored"), "exact"),
        "tensors": [{"name": name, **entry} for name in names],
        "shards": [Shard.of(shard_name(1, 1), content).to_fields()],
    }
    key = "a/snapshots/1-2/manifest.json"
    hostile = read_or_refuse(lambda: Manifest.from_json(written(document), key=key), key=key)
    if hostile is not None:
        decode_or_refuse(hostile, [content])
