"""The page of the snapshot format is enough: a reader written from it alone reads what codistill writes."""

import hashlib
import hmac
import json
import pathlib
import runpy

import pytest
import torch
from torch import nn

from codistill import CheckpointExchange, Codistiller
from codistill.exchange.checkpoint import SnapshotOptions

SECRET = b"a secret of the tests: 32 bytes or more"
read_snapshot = runpy.run_path(str(pathlib.Path(__file__).with_name("naive_reader.py")))["read_snapshot"]


class Tied(nn.Module):
    """A language model in small: its output layer has the weights of its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(48, 40)  # 1920 elements: int8 quantises from 1024 on
        self.norm = nn.BatchNorm1d(40)  # counts its batches in an integer
        self.head = nn.Linear(40, 48)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.norm(self.embedding(tokens)))


def publish(folder, *, codec="exact", secret=None):
    """Train and publish for two steps; return the state of the model at the end."""
    torch.manual_seed(5)
    model, key_file = Tied(), None
    if secret is not None:
        key_file = folder.with_name("key")
        key_file.write_bytes(secret + b"\n")
        key_file.chmod(0o600)
    options = SnapshotOptions(codec=codec, signing_key_file=key_file)
    exchange = CheckpointExchange(folder, peer="a", interval_steps=1, snapshots=options)
    codistiller, optimizer = Codistiller(model, exchange), torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        tokens = torch.randint(48, (16,))
        logits = model(tokens)
        loss = nn.functional.cross_entropy(logits, tokens) + codistiller.loss(logits, tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        codistiller.step()
    codistiller.close()
    return model.state_dict()


def manifest_path(folder):
    body = json.loads(json.loads((folder / "a" / "latest.json").read_bytes())["body"])
    return folder / body["manifest"]["key"]


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def sign(folder, **changes):
    """Write the pointer anew with changes, signed as its own peer would."""
    path = folder / "a" / "latest.json"
    body = json.dumps(json.loads(json.loads(path.read_bytes())["body"]) | changes)
    mac = hmac.new(SECRET, body.encode(), hashlib.sha256).hexdigest()
    path.write_text(json.dumps({"body": body, "mac": mac}))


@pytest.fixture
def folder(tmp_path):
    """A store with the signed snapshots of a peer, which is read once as it is."""
    folder = tmp_path / "store"
    publish(folder, secret=SECRET)
    read_snapshot(folder, "a", key=SECRET)
    return folder


@pytest.mark.parametrize("secret", [None, SECRET], ids=["unsigned", "signed"])
@pytest.mark.parametrize("codec", ["exact", "bfloat16", "int8"])
def test_the_page_is_enough_to_read_a_snapshot_of_every_codec(tmp_path, codec, secret):
    state = publish(tmp_path / "store", codec=codec, secret=secret)
    tensors, manifest = read_snapshot(tmp_path / "store", "a", key=secret)
    assert (manifest["codec"], manifest["step"]) == (codec, 2)
    assert tensors.keys() == state.keys()
    stored = {tensor["name"]: tensor.get("stored") for tensor in manifest["tensors"]}
    stored |= {alias: stored[name] for alias, name in manifest["aliases"].items()}
    assert stored["embedding.weight"] == {"exact": None, "bfloat16": "BF16", "int8": "I8"}[codec]
    assert stored["norm.num_batches_tracked"] is None
    for name, value in state.items():
        assert (tensors[name].dtype, tensors[name].shape) == (value.dtype, value.shape)
        if stored[name] == "I8":
            for ours, block in zip(
                tensors[name].flatten().split(256), value.flatten().split(256), strict=True
            ):
                assert (ours - block).abs().max() <= block.abs().max() / 127 * 0.501, name
        else:
            wanted = value.bfloat16().to(value.dtype) if stored[name] == "BF16" else value
            assert torch.equal(tensors[name], wanted), name


def test_tied_weights_are_stored_once_and_read_under_both_names(folder):
    tensors, manifest = read_snapshot(folder, "a", key=SECRET)
    tied = {"embedding.weight", "head.weight"}
    assert {*manifest["aliases"], *manifest["aliases"].values()} == tied
    assert len(tied & {tensor["name"] for tensor in manifest["tensors"]}) == 1
    assert tensors["embedding.weight"] is tensors["head.weight"]


def test_a_reader_without_a_secret_reads_signed_snapshots(folder):
    unsigned, _ = read_snapshot(folder, "a")
    signed, _ = read_snapshot(folder, "a", key=SECRET)
    assert all(torch.equal(unsigned[name], signed[name]) for name in signed)


def test_another_secret_is_refused(folder):
    with pytest.raises(ValueError, match="another signature"):
        read_snapshot(folder, "a", key=SECRET[::-1])


def test_an_unsigned_pointer_is_refused_by_who_has_a_secret(tmp_path):
    publish(tmp_path / "store")
    with pytest.raises(ValueError, match="refused"):
        read_snapshot(tmp_path / "store", "a", key=SECRET)


def test_a_flipped_byte_of_the_pointers_body_is_refused(folder):
    path = folder / "a" / "latest.json"
    flip(path, path.read_bytes().index(b"sha256") + len(b'sha256\\": \\"'))
    with pytest.raises(ValueError, match="another signature"):
        read_snapshot(folder, "a", key=SECRET)
    with pytest.raises(ValueError, match="refused"):  # the digest is not that of the manifest
        read_snapshot(folder, "a")


def test_a_flipped_byte_of_the_manifest_is_refused(folder):
    path = manifest_path(folder)
    flip(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match="another manifest"):
        read_snapshot(folder, "a", key=SECRET)


@pytest.mark.parametrize("position", [0, 20, -1], ids=["length", "header", "values"])
def test_a_flipped_byte_of_a_shard_is_refused(folder, position):
    (path,) = manifest_path(folder).parent.glob("shard-*")
    flip(path, position)
    with pytest.raises(ValueError, match="a damaged shard"):
        read_snapshot(folder, "a", key=SECRET)


def test_a_newer_format_of_the_pointer_is_refused_with_a_sentence_that_asks_for_a_newer_reader(folder):
    sign(folder, format=2)
    with pytest.raises(ValueError, match="not of format 1: get a newer reader"):
        read_snapshot(folder, "a", key=SECRET)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 2}, "not of format 1: get a newer reader"),
        ({"codec": "int4"}, "unknown codec: get a newer reader"),
    ],
    ids=["format", "codec"],
)
def test_a_newer_manifest_is_refused_with_a_sentence_that_asks_for_a_newer_reader(folder, change, complaint):
    path = manifest_path(folder)
    data = json.dumps(json.loads(path.read_bytes()) | change).encode()
    path.write_bytes(data)
    reference = {"key": path.relative_to(folder).as_posix(), "size": len(data)}
    sign(folder, manifest=reference | {"sha256": hashlib.sha256(data).hexdigest()})
    with pytest.raises(ValueError, match=complaint):
        read_snapshot(folder, "a", key=SECRET)


def test_a_snapshot_that_is_larger_than_the_reader_is_ready_to_hold_is_refused(folder):
    with pytest.raises(ValueError, match="more than max_bytes"):
        read_snapshot(folder, "a", key=SECRET, max_bytes=4096)
