"""A reader of snapshots, written from docs/snapshot-format.md alone, that shares no code with the package."""

import hmac
import json
import re
from hashlib import sha256
from math import prod
from pathlib import Path

import torch

KINDS = (
    "F64=float64 F32=float32 F16=float16 BF16=bfloat16 F8_E4M3=float8_e4m3fn F8_E5M2=float8_e5m2 I64=int64"
)
KINDS += " I32=int32 I16=int16 I8=int8 U64=uint64 U32=uint32 U16=uint16 U8=uint8 BOOL=bool"
DTYPES = {name: getattr(torch, kind) for name, kind in (pair.split("=") for pair in KINDS.split())}
PEER, CHUNK = r"(?!(?i:run\.json)$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}", 2**23
OWN = ("run_id", "peer", "incarnation", "sequence")


def ints(*values):
    assert all(type(n) is int and 0 <= n < 2**63 for n in values), f"not integers: {values}"
    return values


def read(path, most):
    with path.open("rb") as file:
        data = file.read(most + 1)
    assert len(data) <= most, f"{path} has more than {most} bytes"
    return data


def parse(data, versioned=True):
    document = json.loads(data.decode(), object_pairs_hook=lambda p: {len(dict(p)): dict(p)}[len(p)])  # once
    json.dumps(document, ensure_ascii=False, allow_nan=False).encode()  # no infinity, no half of a character
    assert not versioned or ints(document["format"]) == (1,), "not of format 1: get a newer reader"
    return document


def read_snapshot(folder: Path, peer: str, *, key: bytes | None = None, max_bytes: int = 2**30) -> tuple:
    try:
        assert re.fullmatch(PEER, peer), "not the name of a peer"
        envelope = parse(read(folder / peer / "latest.json", 4096), versioned=False)
        mac = hmac.new(key or b"", envelope["body"].encode(), sha256).hexdigest()
        assert key is None or hmac.compare_digest(envelope["mac"], mac), "another signature"
        pointer = parse(envelope["body"].encode())
        own = [pointer[field] for field in OWN]
        assert own[:2] == [parse(read(folder / "run.json", 1024))["run_id"], peer], "another run or peer"
        place, size, digest = (pointer["manifest"][field] for field in ("key", "size", "sha256"))
        assert place == "{}/snapshots/{}-{}/manifest.json".format(peer, *ints(*own[2:])), "another key"
        data = read(folder / place, min(*ints(size), 2**26))
        assert (len(data), sha256(data).hexdigest()) == (size, digest), "another manifest"
        manifest = parse(data)
        assert [manifest[field] for field in OWN] == own, "the manifest of another snapshot"
        assert manifest["codec"] in ("exact", "bfloat16", "int8"), "unknown codec: get a newer reader"
        shards, tensors, aliases = manifest["shards"], manifest["tensors"], manifest["aliases"]
        names, files, state, decoded = [*aliases, *(t["name"] for t in tensors)], [], {}, 0
        layout = [[(0, 8), (shard["size"], 2**63)] for shard in shards]  # what no part may lie on
        for i, shard in enumerate(shards, 1):
            assert shard["name"] == f"shard-{i:05}-of-{len(shards):05}.safetensors", "shards out of order"
            assert len(shard["chunk_sha256"]) == -(-max(ints(shard["size"])) // CHUNK), "digests of chunks"
        assert len({name for name in names if type(name) is str}) == len(names), "a name twice"
        for tensor in tensors:
            shape, parts, stored = tensor["shape"], tensor["parts"], tensor.get("stored", tensor["dtype"])
            width, scaled = DTYPES[tensor["dtype"]].itemsize, tensor.get("stored") == "I8"
            assert prod(max(n, 1) for n in ints(*shape)) * width < 2**63, "too large"
            assert sum(prod(ints(*part["shape"])) for part in parts) == prod(shape), "a gap between parts"
            for i, part in enumerate(parts):
                start, box = ints(*part["offsets"]), part["shape"]
                assert all(a + n <= m for a, n, m in zip(start, box, shape, strict=True)), "outside"
                for other in parts[:i]:
                    sides = zip(start, box, other["offsets"], other["shape"], strict=True)
                    assert any(a + n <= b or b + m <= a for a, n, b, m in sides), "parts overlap"
                wanted = [prod(box) * DTYPES[stored].itemsize] + [-(-prod(box) // 256) * 4] * scaled
                spans = [ints(*part[field]) for field in ("bytes", "scales") if field in part]
                assert [end - begin for begin, end in spans] == wanted, "not the bytes that it asks for"
                layout[max(ints(part["shard"]))] += spans
            decoded += prod(shape) * width
        ends = [[end for span in sorted(spans) for end in span] for spans in layout]
        assert ends == [sorted(several) for several in ends], "bytes overlap or lie outside of their file"
        assert max(decoded, sum(shard["size"] for shard in shards)) <= max_bytes, "more than max_bytes"
        for shard in shards:
            data = read((folder / place).with_name(shard["name"]), shard["size"])
            chunks = [sha256(data[at : at + CHUNK]).hexdigest() for at in range(0, len(data), CHUNK)]
            assert (len(data), chunks) == (shard["size"], shard["chunk_sha256"]), "a damaged shard"
            files.append(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        for tensor in tensors:
            whole = state[tensor["name"]] = torch.empty(tensor["shape"], dtype=DTYPES[tensor["dtype"]])
            stored = DTYPES[tensor.get("stored", tensor["dtype"])]
            for part in tensor["parts"]:
                values = files[part["shard"]][slice(*part["bytes"])].clone().view(stored)
                if "scales" in part:
                    scales = files[part["shard"]][slice(*part["scales"])].clone().view(torch.float32)
                    assert not scales.isnan().any(), "a block was not finite"
                    values = values.float() * scales.repeat_interleave(256)[: len(values)]
                box = tuple(slice(a, a + n) for a, n in zip(part["offsets"], part["shape"], strict=True))
                whole[box] = values.to(whole.dtype).reshape(part["shape"])
        return state | {alias: state[name] for alias, name in aliases.items()}, manifest
    except (AssertionError, AttributeError, LookupError, OverflowError, RecursionError, TypeError) as error:
        raise ValueError(f"refused: {error}") from error
