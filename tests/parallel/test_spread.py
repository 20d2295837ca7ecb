from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from codistill.parallel.spread import model_spread, tensor_spread
from codistill.testing import connect_peers, run_peers


@contextmanager
def mesh_of(ranks):
    """Be the first of some ranks that are not there."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield init_device_mesh("cpu", (ranks,), mesh_dim_names=["spread"])
    finally:
        dist.destroy_process_group()


def test_an_ordinary_model_is_not_spread():
    assert model_spread(nn.Linear(2, 2)) == model_spread(nn.ReLU()) == tensor_spread(torch.zeros(2)) == 1


def test_data_parallel_models_are_spread_over_their_group():
    groups = connect_peers(3)

    def spread(name):
        wrapped = DistributedDataParallel(nn.Linear(2, 2), process_group=groups[int(name)])
        compiled = torch.compile(wrapped, backend="eager")
        return model_spread(wrapped), model_spread(compiled), model_spread(nn.Sequential(wrapped))

    assert set(run_peers(spread, "012").values()) == {(3, 3, 3)}
    groups.clear()


def test_what_is_divided_is_spread_over_its_mesh():
    with mesh_of(4) as mesh:
        assert model_spread(fully_shard(nn.Linear(4, 4), mesh=mesh)) == 4
        assert tensor_spread(distribute_tensor(torch.zeros(8), mesh, [Shard(0)])) == 4
