"""A peer under FSDP2 with bf16 mixed precision on one GPU. To be run where there is a GPU."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.functional import cross_entropy

from codistill import CheckpointExchange, Codistiller, TeacherOptions, load_snapshot
from codistill.testing import InlineBackground


@pytest.fixture
def mesh(tmp_path: Path, device: torch.device) -> Iterator[DeviceMesh]:
    """A world of one rank."""
    if device.type == "cuda":
        torch.cuda.set_device(0)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{tmp_path / 'rendezvous'}",
        rank=0,
        world_size=1,
    )
    try:
        yield init_device_mesh(device.type, (1,))
    finally:
        dist.destroy_process_group()


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))


def divide(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(model, mesh=mesh, mp_policy=precision)
    return model


def test_sharded_peers_in_mixed_precision_publish_and_teach_their_float32_weights(
    tmp_path: Path, device: torch.device, mesh: DeviceMesh
) -> None:
    def build(info: object) -> nn.Module:
        with torch.device("meta"):
            return divide(make_model(), mesh)

    generator = torch.Generator().manual_seed(0)
    models, optimizers, codistillers = {}, {}, {}
    for seed, peer in enumerate("ab"):
        torch.manual_seed(seed)
        models[peer] = divide(make_model().to(device), mesh)
        optimizers[peer] = torch.optim.AdamW(models[peer].parameters(), lr=1e-2)
        exchange = CheckpointExchange(
            tmp_path / "store", peer=peer, interval_steps=1, teachers=TeacherOptions(build=build)
        )
        exchange.background = InlineBackground()
        codistillers[peer] = Codistiller(models[peer], exchange)
    for _ in range(5):
        for peer, codistiller in codistillers.items():
            inputs = torch.randn(16, 8, generator=generator).to(device)
            targets = torch.randint(4, (16,), generator=generator).to(device)
            logits = models[peer](inputs)
            assert logits.dtype == torch.bfloat16
            term = codistiller.loss(logits, inputs)
            assert torch.isfinite(term)
            optimizers[peer].zero_grad()
            (cross_entropy(logits.float(), targets) + term).backward()
            optimizers[peer].step()
            codistiller.step()
    (prediction,) = codistillers["b"].predict(inputs).peers
    assert prediction.target.logits.device.type == device.type
    assert term.item() > 0.0
    for codistiller in codistillers.values():
        codistiller.close()
    for peer, model in models.items():
        published, info = load_snapshot(tmp_path / "store", peer)
        assert (info.step, info.finished) == (5, True)
        own = {name: tensor.full_tensor().cpu() for name, tensor in model.state_dict().items()}
        assert {tensor.dtype for tensor in published.values()} == {torch.float32}
        torch.testing.assert_close(published, own, rtol=0, atol=0)
