import pytest
import torch

from codistill.snapshots.codec import CODECS, encode
from codistill.snapshots.fingerprint import fingerprint
from codistill.snapshots.manifest import Manifest


def build_manifest(state=None, **changes):
    """Return the manifest of a state, by default of two small tensors, and the content of its shards.

    A codec that does not exist is claimed only.
    """
    if state is None:
        state = {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)}
    codec = changes.get("codec", "exact")
    encoded = encode(state, codec if codec in CODECS else "exact")
    fields = {
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
        "fingerprint": fingerprint({name: tensor.shape for name, tensor in state.items()}),
        "tensors": encoded.tensors,
        "aliases": encoded.aliases,
        "shards": tuple(shard for shard, _ in encoded.shards),
        "previous": None,
    }
    return Manifest(**{**fields, **changes}), [bytes(data) for _, data in encoded.shards]


@pytest.fixture(scope="session")
def make_manifest():
    return build_manifest
