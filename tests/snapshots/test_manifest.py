import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codistill.errors import SnapshotError, SnapshotFormatError
from codistill.snapshots.codec import CODECS
from codistill.snapshots.manifest import Manifest, ManifestReference

SETTINGS = settings(deadline=None, derandomize=True, database=None, max_examples=60)
COUNTERS = st.integers(0, 2**63 - 1)
NAMES = st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple) | st.just((7, 200))
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn])
STATES = st.dictionaries(
    NAMES, st.builds(lambda shape, dtype: torch.zeros(shape).to(dtype), SHAPES, DTYPES), min_size=1
)
METADATA = st.dictionaries(
    st.text(max_size=10),
    st.recursive(
        st.none() | st.booleans() | COUNTERS | st.text() | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
PREVIOUS = ManifestReference(key="a/snapshots/0-7/manifest.json", size_bytes=1000, sha256="0" * 64)
KEY = "a/snapshots/1-2/manifest.json"


@SETTINGS
@given(data=st.data(), state=STATES, incarnation=COUNTERS, step=COUNTERS, metadata=METADATA)
def test_every_manifest_comes_back(make_manifest, data, state, incarnation, step, metadata):
    codec = data.draw(st.sampled_from(CODECS))
    names = list(state)
    tied = {f"{names[0]}/tied": state[names[0]]} if state[names[0]].numel() else {}
    manifest, _ = make_manifest(
        state | tied,
        codec=codec,
        incarnation=incarnation,
        step=step,
        metadata=metadata,
        finished=data.draw(st.booleans()),
        task_loss=data.draw(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
        previous=data.draw(st.sampled_from([None, PREVIOUS] if incarnation else [None])),
    )
    assert Manifest.from_json(manifest.to_json(), key=manifest.key) == manifest


def test_the_format_is_the_documented_one(make_manifest):
    weight = torch.ones(2, 3)
    manifest, shards = make_manifest({"weight": weight, "tied": weight}, previous=PREVIOUS)
    document = json.loads(manifest.to_json())
    end = len(shards[0])
    assert document.pop("shards") == [
        {
            "name": "shard-00001-of-00001.safetensors",
            "size": end,
            "chunk_sha256": list(manifest.shards[0].chunk_sha256),
        }
    ]
    assert document.pop("fingerprint") == manifest.fingerprint
    assert document == {
        "format": 1,
        "run_id": "c0ffee",
        "peer": "a",
        "incarnation": 1,
        "sequence": 2,
        "step": 300,
        "samples": 9600,
        "task_loss": 0.5,
        "interval_steps": 50,
        "codec": "exact",
        "finished": False,
        "metadata": {},
        "tensors": [
            {
                "name": "weight",
                "dtype": "F32",
                "shape": [2, 3],
                "parts": [{"shard": 0, "offsets": [0, 0], "shape": [2, 3], "bytes": [end - 24, end]}],
            }
        ],
        "aliases": {"tied": "weight"},
        "previous": {"key": "a/snapshots/0-7/manifest.json", "size": 1000, "sha256": "0" * 64},
    }


def test_what_is_stored_in_another_dtype_is_told_tensor_by_tensor(make_manifest):
    state = {"bias": torch.ones(3), "weight": torch.ones(2, 600)}
    document = json.loads(make_manifest(state, codec="bfloat16")[0].to_json())
    assert [tensor.get("stored") for tensor in document["tensors"]] == [None, "BF16"]
    assert [tensor["dtype"] for tensor in document["tensors"]] == ["F32", "F32"]
    manifest, shards = make_manifest(state, codec="int8")
    end = len(shards[0])
    # 5 scales and 3 biases, then 1200 values.
    assert json.loads(manifest.to_json())["tensors"] == [
        {
            "name": "bias",
            "dtype": "F32",
            "shape": [3],
            "parts": [{"shard": 0, "offsets": [0], "shape": [3], "bytes": [end - 1232, end - 1220]}],
        },
        {
            "name": "weight",
            "dtype": "F32",
            "shape": [2, 600],
            "parts": [
                {
                    "shard": 0,
                    "offsets": [0, 0],
                    "shape": [2, 600],
                    "bytes": [end - 1200, end],
                    "scales": [end - 1220, end - 1200],
                }
            ],
            "stored": "I8",
        },
    ]


def test_it_says_where_it_is_and_how_large_its_shards_are(make_manifest):
    manifest, shards = make_manifest()
    assert manifest.key == KEY
    assert manifest.order == (1, 2)
    assert manifest.total_bytes == sum(map(len, shards))
    assert manifest.shapes == {"weight": (2, 3), "steps": ()}


@pytest.mark.parametrize(("codec", "stored_bytes"), [("exact", 16000), ("bfloat16", 4000), ("int8", 2032)])
def test_it_says_how_large_it_becomes_when_decoded(make_manifest, codec, stored_bytes):
    state = {"x": torch.zeros(2000, dtype=torch.float64), "empty": torch.zeros(0)}
    manifest, _ = make_manifest(state, codec=codec)
    assert manifest.decoded_bytes == 16000
    assert stored_bytes < manifest.total_bytes < stored_bytes + 400


@pytest.mark.parametrize(("codec", "allowed"), [("exact", "absent"), ("bfloat16", "BF16")])
def test_what_the_codec_does_not_make_is_refused(make_manifest, codec, allowed):
    quantised, _ = make_manifest({"x": torch.zeros(1024)}, codec="int8")
    with pytest.raises(ValueError, match=f"'x': stored must be {allowed} with codec '{codec}', got 'I8'"):
        dataclasses.replace(quantised, codec=codec)


def test_a_codec_to_come_asks_for_an_upgrade_before_anything_of_it_is_read(make_manifest):
    document = json.loads(make_manifest()[0].to_json())
    document["codec"] = "int4"
    document["tensors"][0]["stored"] = "I4"
    with pytest.raises(SnapshotFormatError, match=r"'int8', got 'int4'\. Upgrade codistill here"):
        Manifest.from_json(json.dumps(document).encode(), key=KEY)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_task_loss_that_is_not_finite_is_written_as_null(make_manifest, loss):
    manifest, _ = make_manifest(task_loss=loss)
    assert Manifest.from_json(manifest.to_json(), key=KEY).task_loss is None


@pytest.mark.parametrize(
    "key",
    [
        "a/snapshots/1-2/manifest.json",
        "a/snapshots/1-3/manifest.json",
        "a/snapshots/2-0/manifest.json",
        "b/snapshots/0-0/manifest.json",
    ],
)
def test_previous_must_be_an_earlier_snapshot_of_the_same_peer(make_manifest, key):
    reference = ManifestReference(key=key, size_bytes=1, sha256="0" * 64)
    with pytest.raises(ValueError, match="previous must be an earlier snapshot of peer 'a' than 1-2"):
        make_manifest(previous=reference)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "a/latest.json"}, "key must be like"),
        ({"size_bytes": 0}, "size of a manifest must be between 1 and"),
        ({"sha256": "0" * 63}, "sha256 must be 64 hexadecimal digits"),
    ],
)
def test_a_reference_to_no_manifest_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PREVIOUS, **changes)


def test_metadata_that_is_no_json_is_a_type_error(make_manifest):
    manifest, _ = make_manifest(metadata={"model": object()})
    with pytest.raises(TypeError, match=r"metadata\['model'\] must be"):
        manifest.to_json()


def test_a_manifest_that_no_reader_accepts_is_not_written(make_manifest, monkeypatch):
    monkeypatch.setattr("codistill.snapshots.manifest.MAX_MANIFEST_BYTES", 2000)
    manifest, _ = make_manifest(metadata={"notes": "x" * 2000})
    with pytest.raises(ValueError, match="Put less into the metadata"):
        manifest.to_json()


def test_a_manifest_under_another_key_is_refused(make_manifest):
    manifest, _ = make_manifest()
    with pytest.raises(SnapshotFormatError, match="its key must be 'a/snapshots/1-2/"):
        Manifest.from_json(manifest.to_json(), key="a/snapshots/1-3/manifest.json")


def test_unknown_fields_are_ignored(make_manifest):
    manifest, _ = make_manifest()
    document = {**json.loads(manifest.to_json()), "new_in_a_later_version": {"x": [1]}}
    assert Manifest.from_json(json.dumps(document).encode(), key=KEY) == manifest


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], 2, "format 2 and this version of codistill reads format 1"),
        (["run_id"], "../x", "run_id must"),
        (["peer"], "run.json", "peer must not be 'run.json'"),
        (["incarnation"], -1, "incarnation must"),
        (["sequence"], "2", "sequence must"),
        (["step"], True, "step must"),
        (["samples"], 2**63, "samples must"),
        (["task_loss"], [], "task_loss must"),
        (["interval_steps"], 0, "interval_steps must be an integer between 1"),
        (["codec"], None, "codec must"),
        (["finished"], 0, "finished must"),
        (["metadata"], [], "metadata must"),
        (["fingerprint"], "0" * 63, "fingerprint must"),
        (["tensors"], [], "tensors must hold at least one"),
        (["tensors"], {}, "tensors must be an array"),
        (["tensors", 0, "name"], 5, r"tensors\[0\]\.name must"),
        (["tensors", 0, "dtype"], "F31", "dtype must be one of"),
        (["tensors", 0, "shape"], [1, -2], r"tensors\[0\]\.shape\[1\] must"),
        (["tensors", 0, "shape"], [1] * 33, r"tensors\[0\]\.shape must have at most 32"),
        (["tensors", 0, "shape"], [2**62, 2**62], r"below 2\*\*63 bytes"),
        (["tensors", 0, "parts"], [], "parts must not be empty"),
        (["tensors", 0, "parts", 0, "shard"], 1, "within the shards' files"),
        (["tensors", 0, "parts", 0, "shard"], -1, r"tensors\[0\]\.parts\[0\]\.shard must"),
        (["tensors", 0, "parts", 0, "bytes"], [0], r"tensors\[0\]\.parts\[0\]\.bytes must be start and end"),
        (["tensors", 0, "parts", 0, "bytes"], [0, 10**6], "bytes must be"),
        (["tensors", 0, "stored"], None, r"tensors\[0\]\.stored must be a string"),
        (["tensors", 0, "stored"], "BF16", "stored must be one of none for I64"),
        (["tensors", 0, "parts", 0, "scales"], [0], r"parts\[0\]\.scales must be start and end"),
        (["tensors", 0, "parts", 0, "scales"], [0, 4], "scales must be there exactly where"),
        (["aliases"], {"x": "missing"}, "aliases must be"),
        (["aliases"], {"x": 1}, r"aliases\['x'\] must be a string"),
        (["shards", 0, "name"], "../../x", r"shards\[0\]\.name must be 'shard-00001-of-00001"),
        (["shards", 0, "size"], 9 * 2**20, "must be 2 digests"),
        (["shards", 0, "chunk_sha256"], [1], r"shards\[0\]\.chunk_sha256 must be an array of strings"),
        (["shards", 0, "chunk_sha256"], ["0" * 64] * 2, r"chunk_sha256 must have at most 1"),
        (
            ["previous"],
            {"key": "b/snapshots/0-0/manifest.json", "size": 1, "sha256": "0" * 64},
            "previous must",
        ),
        (["previous"], {"key": "../x", "size": 1, "sha256": "0" * 64}, "key must be like"),
    ],
)
def test_a_bad_field_is_named(make_manifest, path, value, message):
    manifest, _ = make_manifest()
    document = json.loads(manifest.to_json())
    *parents, last = path
    place = document
    for step in parents:
        place = place[step]
    place[last] = value
    with pytest.raises(SnapshotFormatError, match=message) as caught:
        Manifest.from_json(json.dumps(document).encode(), key=KEY)
    assert (caught.value.peer, caught.value.key) == ("a", KEY)


@pytest.mark.parametrize(
    "field", ["run_id", "peer", "step", "task_loss", "metadata", "tensors", "shards", "previous"]
)
def test_a_missing_field_is_named(make_manifest, field):
    document = json.loads(make_manifest()[0].to_json())
    del document[field]
    with pytest.raises(SnapshotFormatError, match=f"{field} must be there"):
        Manifest.from_json(json.dumps(document).encode(), key=KEY)


@pytest.mark.parametrize("text", ['{"deep": ' + "[" * 20 + "]" * 20 + "}", '{"a": NaN}', '{"a": "\\ud800"}'])
def test_metadata_of_others_is_checked_too(make_manifest, text):
    data = make_manifest()[0].to_json().replace(b'"metadata": {}', b'"metadata": ' + text.encode())
    with pytest.raises(SnapshotFormatError, match=r"metadata|finite"):
        Manifest.from_json(data, key=KEY)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@SETTINGS
@given(data=st.data(), value=JSON)
def test_any_value_in_any_field_is_read_or_a_snapshot_error(make_manifest, data, value):
    document = json.loads(make_manifest()[0].to_json())
    place = document
    while isinstance(place, dict | list) and place:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
        if data.draw(st.booleans()):
            place[key] = value
            break
        place = place[key]
    try:
        Manifest.from_json(json.dumps(document).encode(), key=KEY)
    except SnapshotError as error:
        assert error.key == KEY  # noqa: PT017 - what is still a manifest is fine too


@SETTINGS
@given(garbage=st.binary(max_size=300), start=st.integers(0, 800), length=st.integers(0, 800))
def test_garbage_is_a_snapshot_error(make_manifest, garbage, start, length):
    data = make_manifest()[0].to_json()
    for candidate in (garbage, data[:start] + garbage + data[start + length :]):
        try:
            Manifest.from_json(candidate, key=KEY)
        except SnapshotError as error:
            assert error.key == KEY  # noqa: PT017 - what is still a manifest is fine too
