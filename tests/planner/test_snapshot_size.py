import dataclasses
import uuid

import pytest
import torch
from torch import nn

from codistill.lab.tasks.images.mlp import mlp
from codistill.lab.tasks.images.resnet import ResNet
from codistill.planner import Model, snapshot_bytes
from codistill.planner.snapshot_size import count_tensors, manifest_bytes
from codistill.snapshots.codec import CODECS, encode
from codistill.snapshots.fingerprint import fingerprint
from codistill.snapshots.manifest import Manifest, ManifestReference

MODELS = {
    "mlp": lambda: mlp(512, 512, 512, 100),
    "mlp of bfloat16": lambda: mlp(512, 512, 512, 100).bfloat16(),
    "mlp of float64": lambda: mlp(512, 512, 512, 100).double(),
    "resnet": lambda: ResNet(10, depth=8),
    "transformer": lambda: nn.TransformerEncoderLayer(128, 4, 512),
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_those_of_a_real_snapshot(name, codec):
    torch.manual_seed(0)
    module = MODELS[name]()
    encoded = encode(module.state_dict(), codec)
    manifest = Manifest(
        run_id=uuid.UUID(int=7, version=4).hex,
        peer="a",
        incarnation=0,
        sequence=12,
        step=12_000,
        samples=768_000,
        task_loss=0.123456789,
        interval_steps=1000,
        codec=codec,
        finished=False,
        metadata={},
        fingerprint=fingerprint({tensor.name: tensor.shape for tensor in encoded.tensors}),
        tensors=encoded.tensors,
        aliases=encoded.aliases,
        shards=tuple(shard for shard, _ in encoded.shards),
        previous=ManifestReference(key="a/snapshots/0-11/manifest.json", size_bytes=1000, sha256="0" * 64),
    )
    model = Model.of(module)
    # Headers depend on the lengths of names; the values, which are nearly all, do not.
    assert snapshot_bytes(model, codec) == pytest.approx(manifest.total_bytes, abs=40 * model.tensors)
    assert snapshot_bytes(model, codec) == pytest.approx(manifest.total_bytes, rel=0.02)
    assert manifest_bytes(model, codec) == pytest.approx(len(manifest.to_json()), rel=0.25)


def test_a_snapshot_in_parts_has_a_header_a_part():
    model = Model(parameters=1_000_000, tensors=10)
    assert snapshot_bytes(model, shards=4) - snapshot_bytes(model) == 3 * 10 * 90
    assert manifest_bytes(model, shards=4) > manifest_bytes(model)


@pytest.mark.parametrize(
    ("parameters", "least", "most"), [(124e6, 110, 220), (340e6, 200, 450), (7e9, 200, 900)]
)
def test_the_number_of_tensors_is_guessed_as_of_a_transformer(parameters, least, most):
    # GPT-2 has 148, BERT-large 391, a Llama of 7e9 weights 291.
    model = Model(parameters=int(parameters))
    assert least <= count_tensors(model) <= most
    assert count_tensors(dataclasses.replace(model, tensors=3)) == 3
