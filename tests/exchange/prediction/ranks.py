"""What the processes of `test_exchange` run: ``python ranks.py RANK FOLDER``.

Each does all scenarios in turn and leaves what they returned as JSON.
"""

import datetime
import json
import os
import sys
import traceback
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from codistill import Codistiller, CodistillWarning, Divergence, PredictionExchange, TopK
from codistill.errors import ExchangeTimeout, PeerMismatchError

PROCESSES = 4
STEPS = 4
BATCH = 8
WEIGHT = 0.7
TEMPERATURE = 1.5
TIMEOUT_S = 60.0
# Loss and combine; the formulas are written out in the test.
TERMS = [
    ("kl", "losses"),
    ("kl", "probabilities"),
    ("kl", "logits"),
    ("jensen_shannon", "losses"),
    ("logit_mse", "logits"),
]


def make_model(number):
    torch.manual_seed(100 + number)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4)).double()


def batch(step):
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(BATCH, 4, generator=generator, dtype=torch.float64)
    return inputs, inputs.argmax(1)


def divergence(name):
    return Divergence(name) if name == "logit_mse" else Divergence(name, temperature=TEMPERATURE)


def make_optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


def train(model, exchange, *, rows=slice(None), name="kl", combine="losses", group=None):
    """Return losses, last gradients and last weights of one rank."""
    optimizer = make_optimizer(model)
    losses = []
    with Codistiller(
        model, exchange, distillation_loss=divergence(name), combine=combine, weight=WEIGHT, group=group
    ) as codistiller:
        for step in range(STEPS):
            inputs, targets = (tensor[rows] for tensor in batch(step))
            logits = model(inputs)
            loss = F.cross_entropy(logits, targets) + codistiller.loss(logits, inputs)
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
            report = codistiller.step()
    return {
        "losses": losses,
        "gradients": [whole(parameter.grad).tolist() for parameter in model.parameters()],
        "weights": [whole(parameter.detach()).tolist() for parameter in model.parameters()],
        "samples": report.samples,
        "teachers": dict(report.teachers),
    }


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def peers_of_one_rank(rank):
    """Train in groups of two, three and four peers, with every term."""
    results = {}
    for count in (2, 3, 4):
        group = dist.new_group(list(range(count)))
        if rank >= count:
            try:
                PredictionExchange(group)
            except ValueError as error:
                results[f"outside {count}"] = str(error)
            continue
        for name, combine in TERMS:
            exchange = PredictionExchange(group)
            results[f"{count} {name} {combine}"] = train(
                make_model(rank), exchange, name=name, combine=combine
            )
    return results


def rows_of(mesh):
    half = BATCH // 2
    begin = mesh["ranks"].get_local_rank() * half
    return slice(begin, begin + half)


def make_mesh():
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("peers", "ranks"))


def data_parallel_peers(rank):
    mesh = make_mesh()
    ranks = mesh["ranks"].get_group()
    model = DistributedDataParallel(make_model(mesh["peers"].get_local_rank()), process_group=ranks)
    return train(model, PredictionExchange(mesh["peers"]), rows=rows_of(mesh), group=ranks)


def sharded_peers(rank):
    mesh = make_mesh()
    model = make_model(mesh["peers"].get_local_rank())
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh["ranks"])
    exchange = PredictionExchange(mesh["peers"].get_group())
    return train(model, exchange, rows=rows_of(mesh), group=mesh["ranks"].get_group())


def a_few_classes_of_sharded_peers(rank):
    mesh = make_mesh()
    model = fully_shard(make_model(mesh["peers"].get_local_rank()), mesh=mesh["ranks"])
    exchange = PredictionExchange(mesh["peers"], codec=TopK(3, sampled=2))
    return train(model, exchange, rows=rows_of(mesh), group=mesh["ranks"].get_group())


def one_rank_with_another_batch(rank):
    """Only the counterparts of that rank find out, and its peer ends by their errors."""
    mesh = make_mesh()
    model = make_model(mesh["peers"].get_local_rank())
    codistiller = Codistiller(model, PredictionExchange(mesh["peers"]), group=mesh["ranks"].get_group())
    inputs, _ = batch(rank if rank in (1, 3) else 0)
    try:
        return codistiller.loss(model(inputs), inputs).item()
    except PeerMismatchError as error:
        return [error.peer, str(error)]


def a_peer_that_dies(rank):
    """The last scenario: process 3 ends in the middle of training."""
    model = make_model(rank)
    group = dist.new_group(list(range(PROCESSES)), timeout=datetime.timedelta(seconds=TIMEOUT_S))
    codistiller = Codistiller(model, PredictionExchange(group))
    for step in range(3):
        inputs, _ = batch(step)
        if rank == 3 and step == 2:
            return None
        try:
            codistiller.loss(model(inputs), inputs)
        except ExchangeTimeout as error:
            return [error.step, str(error)]
        codistiller.step()
    return None


SCENARIOS = [
    data_parallel_peers,
    sharded_peers,
    a_few_classes_of_sharded_peers,
    one_rank_with_another_batch,
    # After the others: torch names the groups of a peer's ranks by how many groups a process is in, and
    # processes that are in different numbers of them wait for one another for ever (torch 2.13).
    peers_of_one_rank,
    a_peer_that_dies,
]


def main(rank, folder):
    torch.set_num_threads(1)
    warnings.simplefilter("error", CodistillWarning)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=PROCESSES,
        timeout=datetime.timedelta(seconds=TIMEOUT_S),
    )
    results = {scenario.__name__: scenario(rank) for scenario in SCENARIOS}
    (folder / f"{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), Path(sys.argv[2]))
    except BaseException:  # noqa: BLE001 - it ends in the log
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    # Gloo may abort an interpreter that exits, and a rank that has failed must not wait for the others.
    os._exit(0)
