"""One of two peers that swap predictions: ``torchrun --nproc-per-node=2 prediction_rank.py BACKEND``.

Rank 0 prints its losses, and those of the loop written out by hand, which has both models.
"""

import json
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

from codistill import Codistiller, PredictionExchange

STEPS = 5


def make_model(number, device):
    torch.manual_seed(number)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 5)).to(device)


def make_optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def batch(step, device):
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(12, 6, generator=generator)
    return inputs.to(device), torch.randint(5, (12,), generator=generator).to(device)


def take_step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def train(own, device):
    model = make_model(own, device)
    optimizer = make_optimizer(model)
    ranks = dist.new_group([own], use_local_synchronization=True)
    losses = []
    with Codistiller(model, PredictionExchange(dist.group.WORLD), group=ranks) as codistiller:
        for step in range(STEPS):
            inputs, targets = batch(step, device)
            logits = model(inputs)
            loss = cross_entropy(logits, targets) + codistiller.loss(logits, inputs)
            losses.append(take_step(optimizer, loss))
            codistiller.step()
    return losses


def train_by_hand(own, device):
    models = [make_model(number, device) for number in range(2)]
    optimizers = [make_optimizer(model) for model in models]
    losses = []
    for step in range(STEPS):
        inputs, targets = batch(step, device)
        logits = [model(inputs) for model in models]
        teachers = [log_softmax(outputs.detach(), dim=1) for outputs in reversed(logits)]
        for number in range(2):
            divergences = teachers[number].exp() * (teachers[number] - log_softmax(logits[number], dim=1))
            loss = cross_entropy(logits[number], targets) + divergences.sum(dim=1).mean()
            value = take_step(optimizers[number], loss)
            if number == own:
                losses.append(value)
    return losses


def main(backend):
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if backend == "nccl" else "cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    own = dist.get_rank()
    losses, expected = train(own, device), train_by_hand(own, device)
    if own == 0:
        sys.stdout.write(json.dumps([losses, expected]) + "\n")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
    # With gloo (torch 2.13) about one interpreter in a hundred aborts while it shuts down.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
