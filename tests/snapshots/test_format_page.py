"""docs/snapshot-format.md shows what the library writes, and is enough to read it."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from codistill.snapshots.codec import decode, encode
from codistill.snapshots.fingerprint import fingerprint
from codistill.snapshots.header import read_header
from codistill.snapshots.keys import RUN_KEY, life_key, pointer_key, shard_key, shard_name, status_key
from codistill.snapshots.manifest import Manifest, ManifestReference
from codistill.snapshots.pointer import Pointer
from codistill.snapshots.precision import CODECS
from codistill.snapshots.run import LIFE_DOCUMENT, Run
from codistill.snapshots.shards import Shard
from codistill.snapshots.signing import SigningKey
from codistill.snapshots.status import Status
from codistill.snapshots.tensors import DTYPES, Part, TensorEntry

PAGE = (Path(__file__).parents[2] / "docs" / "snapshot-format.md").read_text()
RULES, REST = PAGE.split("\n## Example\n")
EXAMPLE, READER = REST.split("\n## A reader\n")
SECRET = b"an example of 33 bytes, no secret"
LARGE = 10**6


@pytest.fixture(scope="module")
def read_snapshot():
    """The function of the page's own program."""
    program = re.fullmatch(r".*\n```python\n(.*)```\n", READER, re.DOTALL)[1]
    names = {}
    exec(program, names)
    return names["read_snapshot"]


def example():
    """Return the page's files by key: what is said to be stored on one line as one line."""
    files = {}
    for key, remark, text in re.findall(
        r"^`([\w./-]+)`([^\n]*):\n\n```\w+\n(.*?)\n```$", EXAMPLE, re.DOTALL | re.MULTILINE
    ):
        if "hexadecimal" in remark:
            files[key] = bytes.fromhex(text)
        elif remark:
            files[key] = json.dumps(json.loads(text), sort_keys=True).encode()
        else:
            files[key] = text.encode()
    return files


def example_state():
    weight = torch.tensor([[0.5, -1.0]])
    return {"weight": weight, "tied": weight, "steps": torch.tensor(7)}


def publish(state, tensors, aliases, shards, *, codec="exact"):
    """Return the files by key that the library writes for a state that is encoded already."""
    manifest = Manifest(
        run_id="c0ffee",
        peer="a",
        incarnation=0,
        sequence=0,
        step=100,
        samples=3200,
        task_loss=0.25,
        interval_steps=50,
        codec=codec,
        finished=False,
        metadata={"arch": "line"},
        fingerprint=fingerprint({name: tensor.shape for name, tensor in state.items()}),
        tensors=tensors,
        aliases=aliases,
        shards=tuple(shard for shard, _ in shards),
        previous=None,
    )
    document = manifest.to_json()
    pointer = Pointer(
        run_id=manifest.run_id,
        peer=manifest.peer,
        incarnation=manifest.incarnation,
        sequence=manifest.sequence,
        manifest=ManifestReference(
            key=manifest.key, size_bytes=len(document), sha256=hashlib.sha256(document).hexdigest()
        ),
    )
    status = Status(
        run_id=manifest.run_id,
        peer=manifest.peer,
        incarnation=manifest.incarnation,
        heartbeat=12,
        step=110,
        samples=3520,
        task_loss=0.125,
        distillation_loss=None,
        state="running",
        reading={"b": (0, 3)},
        weight=1.0,
        agreement={"b": 0.75},
        ages={"b": 10},
        stall_s=0.25,
        running_s=60.5,
    )
    return {
        RUN_KEY: Run(run_id=manifest.run_id).to_json(),
        life_key("a", 0): LIFE_DOCUMENT,
        pointer_key("a"): pointer.to_json(signing_key=SigningKey(secret=SECRET)),
        status_key("a"): status.to_json(),
        manifest.key: document,
        **{shard_key("a", *manifest.order, shard.name): bytes(content) for shard, content in shards},
    }


def publish_state(state, codec):
    encoded = encode(state, codec)
    return publish(state, encoded.tensors, encoded.aliases, encoded.shards, codec=codec)


def write(folder, files):
    for key, content in files.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def assert_equal_states(got, expected):
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype
        assert got[name].shape == tensor.shape
        assert torch.equal(got[name], tensor), name


def test_the_example_is_what_the_library_writes():
    assert example() == publish_state(example_state(), "exact")


def test_the_example_s_header_is_that_of_its_shard():
    shown = re.search(r"Its header.*?```json\n(.*?)\n```", EXAMPLE, re.DOTALL)[1].encode()
    shard = example()["a/snapshots/0-0/shard-00001-of-00001.safetensors"]
    assert shard[8 : 8 + int.from_bytes(shard[:8], "little")].rstrip() == shown


def test_the_page_s_reader_reads_the_page_s_example(tmp_path, read_snapshot):
    run = write(tmp_path, example())
    for secret in (SECRET, None):
        assert_equal_states(read_snapshot(run, "a", max_bytes=LARGE, secret=secret), example_state())


@pytest.mark.parametrize("codec", CODECS)
def test_the_page_s_reader_reads_what_the_library_writes(tmp_path, read_snapshot, make_manifest, codec):
    generator = torch.Generator().manual_seed(0)
    state = {f"a.{name}": torch.ones(3, 2).to(dtype) for name, dtype in DTYPES.items()}
    state |= {
        f"large.{dtype}": torch.randn(7, 300, generator=generator).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    }
    state |= {"empty": torch.empty(0, 3), "one": torch.tensor(1.5), "b.\u00e9": state["a.F32"]}
    run = write(tmp_path, publish_state(state, codec))
    expected = decode(*make_manifest(state, codec=codec))
    assert_equal_states(read_snapshot(run, "a", max_bytes=LARGE, secret=SECRET), expected)


def test_the_page_s_reader_puts_parts_together(tmp_path, read_snapshot):
    whole = torch.arange(12.0).reshape(3, 4)
    boxes = {(0, 0): whole[:2].contiguous(), (2, 0): whole[2:].contiguous()}
    shards, parts = [], []
    for index, (offsets, box) in enumerate(boxes.items()):
        content = save({"weight": box})
        entry = read_header(memoryview(content))[1]["weight"]
        shards.append((Shard.of(shard_name(index + 1, 2), content), content))
        parts.append(
            Part(shard=index, offsets=offsets, shape=tuple(box.shape), start=entry.start, end=entry.end)
        )
    tensor = TensorEntry(name="weight", dtype="F32", shape=(3, 4), parts=tuple(parts))
    run = write(tmp_path, publish({"weight": whole}, (tensor,), {}, shards))
    assert_equal_states(read_snapshot(run, "a", max_bytes=LARGE), {"weight": whole})


@pytest.mark.parametrize("key", [key for key in example() if key == "a/latest.json" or "snapshots" in key])
def test_the_page_s_reader_refuses_what_was_altered(tmp_path, read_snapshot, key):
    run, content = write(tmp_path, example()), example()[key]
    for index in range(0, len(content), 3):
        altered = bytearray(content)
        altered[index] ^= 1
        (run / key).write_bytes(altered)
        with pytest.raises((ValueError, KeyError)):
            read_snapshot(run, "a", max_bytes=LARGE, secret=SECRET)


def test_the_page_s_reader_refuses_what_is_too_large_or_signed_by_others(tmp_path, read_snapshot):
    run = write(tmp_path, example())
    with pytest.raises(ValueError, match="too large"):
        read_snapshot(run, "a", max_bytes=100)
    with pytest.raises(ValueError, match="not signed with the key"):
        read_snapshot(run, "a", max_bytes=LARGE, secret=b"k" * 32)


def fields_of(value):
    """Return the names of all fields that the format gives, not those of the user."""
    if isinstance(value, list):
        return set().union(*map(fields_of, value))
    if not isinstance(value, dict):
        return set()
    users = ("metadata", "aliases", "reading", "agreement", "ages")
    return set(value).union(*(fields_of(inner) for name, inner in value.items() if name not in users))


def test_every_field_has_a_row():
    in_rows = {
        name
        for row in re.findall(r"^\| (`.*?) \|", RULES, re.MULTILINE)
        for name in re.findall("`(.*?)`", row)
    }
    documents = publish_state({"weight": torch.ones(2000)}, "int8")
    written = set()
    for key, content in documents.items():
        if key.endswith(".json"):
            written |= fields_of(json.loads(content))
    written |= fields_of(json.loads(json.loads(documents["a/latest.json"])["body"]))
    assert {"stored", "scales", "mac", "heartbeat", "previous"} <= written
    assert written <= in_rows
