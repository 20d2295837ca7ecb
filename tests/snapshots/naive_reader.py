"""A reader of snapshots that is written from docs/snapshot-format.md alone and shares no code with the package."""

import hmac
import json
import pathlib
import re
from hashlib import sha256
from math import prod

import torch

KINDS = (
    "F64=float64 F32=float32 F16=float16 BF16=bfloat16 F8_E4M3=float8_e4m3fn F8_E5M2=float8_e5m2 I64=int64"
)
KINDS += " I32=int32 I16=int16 I8=int8 U64=uint64 U32=uint32 U16=uint16 U8=uint8 BOOL=bool"
DTYPES = {name: getattr(torch, kind) for name, kind in (pair.split("=") for pair in KINDS.split())}
PEER, CHUNK = r"(?!(?i:run\.json)$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}", 2**23


def ints(values):
    assert type(values) is list and all(type(n) is int and 0 <= n < 2**63 for n in values), "no integers"
    return values


def read(path, most):
    with path.open("rb") as file:
        data = file.read(most + 1)
    assert len(data) <= most, f"{path} has more than {most} bytes"
    return data


def parse(data, versioned=True):
    pairs = []
    document = json.loads(data.decode(), object_pairs_hook=lambda found: pairs.append(found) or dict(found))
    json.dumps(document, ensure_ascii=False, allow_nan=False).encode()  # no infinity, no half of a character
    assert all(len(dict(found)) == len(found) for found in pairs), "a field stands twice in an object"
    assert not versioned or ints([document["format"]]) == [1], "another format than 1: get a newer reader"
    return document


def read_snapshot(
    folder: pathlib.Path, peer: str, *, key: bytes | None = None, max_bytes: int = 2**30
) -> tuple[dict[str, torch.Tensor], dict]:
    try:
        assert re.fullmatch(PEER, peer), "not a name of a peer"
        envelope = parse(read(folder / peer / "latest.json", 4096), versioned=False)
        mac = hmac.new(key or b"", envelope["body"].encode(), "sha256").hexdigest()
        assert key is None or hmac.compare_digest(envelope["mac"], mac), "the signature is missing or another"
        pointer = parse(envelope["body"].encode())
        own = [parse(read(folder / "run.json", 1024))["run_id"], peer]
        own += ints([pointer["incarnation"], pointer["sequence"]])
        assert [pointer["run_id"], pointer["peer"]] == own[:2], "a pointer of another run or peer"
        (name, size, digest), path = (
            (pointer["manifest"][k] for k in ("key", "size", "sha256")),
            folder / peer,
        )
        assert name == "{}/snapshots/{}-{}/manifest.json".format(*own[1:]) and ints([size])[0] <= 2**26, (
            "key, size"
        )
        data = read(folder / name, size)
        assert len(data) == size and sha256(data).hexdigest() == digest, "another manifest"
        manifest = parse(data)
        assert [manifest[k] for k in ("run_id", "peer", "incarnation", "sequence")] == own, (
            "of another snapshot"
        )
        assert manifest["codec"] in ("exact", "bfloat16", "int8"), "an unknown codec: get a newer reader"
        shards, tensors, aliases = manifest["shards"], manifest["tensors"], manifest["aliases"]
        layout, shapes, files, found = [{} for _ in shards], {}, [], {}
        for i, shard in enumerate(shards, 1):
            assert shard["name"] == f"shard-{i:05}-of-{len(shards):05}.safetensors", "shards out of order"
            assert len(shard["chunk_sha256"]) == -(-ints([shard["size"]])[0] // CHUNK), "digests of chunks"
        for tensor in tensors:
            name, shape, dtype = tensor["name"], ints(tensor["shape"]), DTYPES[tensor["dtype"]]
            assert prod(max(n, 1) for n in shape) * dtype.itemsize < 2**63 and name not in shapes, "tensor"
            assert sum(prod(part["shape"]) for part in tensor["parts"]) == prod(shape), "a gap between parts"
            stored, shapes[name] = tensor.get("stored", tensor["dtype"]), shape
            for i, part in enumerate(tensor["parts"]):
                starts, sizes, entries = (
                    ints(part["offsets"]),
                    ints(part["shape"]),
                    layout[ints([part["shard"]])[0]],
                )
                assert all(a + n <= m for a, n, m in zip(starts, sizes, shape, strict=True)), (
                    "a part sticks out"
                )
                for other in tensor["parts"][:i]:
                    sides = zip(starts, sizes, other["offsets"], other["shape"], strict=True)
                    assert any(a + n <= b or b + m <= a for a, n, b, m in sides), "parts overlap"
                assert name not in entries and ("scales" in part) == (tensor.get("stored") == "I8"), "scales"
                entries[name] = [ints(part["bytes"]), stored, sizes]
                if "scales" in part:
                    entries[f"{name}::scales"] = [ints(part["scales"]), "F32", [-(-prod(sizes) // 256)]]
        for shard, entries in zip(shards, layout, strict=True):
            end = 8
            for (start, stop), stored, shape in sorted(entries.values()):
                assert end <= start == stop - prod(shape) * DTYPES[stored].itemsize, "bytes of a part"
                end = stop
            assert end <= shard["size"], "bytes outside of the file"
        assert not shapes.keys() & aliases.keys(), "a name twice"
        shapes |= {alias: shapes[name] for alias, name in aliases.items()}
        digest = sha256(json.dumps(sorted(map(list, shapes.items()))).encode()).hexdigest()
        assert digest == manifest["fingerprint"], "fingerprint"
        held = sum(prod(t["shape"]) * DTYPES[t["dtype"]].itemsize for t in tensors)
        assert max(held, sum(shard["size"] for shard in shards)) <= max_bytes, f"more than {max_bytes} bytes"
        for shard in shards:
            files.append(read((folder / path).with_name(shard["name"]), shard["size"]))
        return found, manifest
    except (AssertionError, AttributeError, IndexError, KeyError, RecursionError, TypeError) as error:
        raise ValueError(f"refused: {error}") from error
