"""A peer of several ranks: a DistributedDataParallel job of torchrun, which starts it again if a rank dies.

    torchrun --standalone --nproc-per-node=2 examples/ddp_peer.py --peer a --store runs/ddp

The other peer is the same line with --peer b, on any machine that sees the store; how many ranks it has does
not matter. Under --max-restarts=3 a rank that dies makes torchrun start all ranks of its peer anew, from the
last checkpoint; the other peer goes on meanwhile. See two_clusters.md.
"""

import argparse
import itertools
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from codistill import CheckpointExchange, Codistiller, Membership
from codistill.data import PartitionedSampler

arguments = argparse.ArgumentParser()
arguments.add_argument("--peer", required=True, help="this job's name")
arguments.add_argument("--store", required=True, help="a folder or URL that all peers see")
arguments.add_argument(
    "--checkpoints", type=Path, default=Path("runs/ddp-checkpoints"), help="this job's own"
)
arguments.add_argument("--steps", type=int, default=300)
options = arguments.parse_args()

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if device.type == "cuda":
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()

generator = torch.Generator().manual_seed(0)
features = torch.randn(4096, 20, generator=generator)
dataset = TensorDataset(features, (features @ torch.linspace(-1, 1, 80).reshape(20, 4).sin()).argmax(1))
sampler = PartitionedSampler(dataset, peer=options.peer, peers=["a", "b"], rank=rank, world_size=ranks)
loader = DataLoader(dataset, batch_size=32, sampler=sampler, drop_last=True)

# Ranks of one peer start with the same weights, peers with different ones.
torch.manual_seed(sum(options.peer.encode()))
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 4)).to(device)
student = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
# A peer that is restarted before its first checkpoint starts again under its name.
restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
membership = Membership(start_with_peers=1, rejoin=restarts > 0)
exchange = CheckpointExchange(options.store, peer=options.peer, membership=membership)
codistiller = Codistiller(student, exchange)

steps_done, checkpoint = 0, options.checkpoints / f"{options.peer}.pt"
if checkpoint.exists():
    state = torch.load(checkpoint, weights_only=True, map_location=device)
    steps_done = state["step"]
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    codistiller.load_state_dict(state["codistiller"])
    sampler.load_state_dict(state["sampler"])

epochs = itertools.chain.from_iterable(itertools.repeat(loader))
for step, (inputs, targets) in zip(range(steps_done + 1, options.steps + 1), epochs, strict=False):
    inputs, targets = inputs.to(device), targets.to(device)
    logits = student(inputs)
    task_loss = cross_entropy(logits, targets)
    (task_loss + codistiller.loss(logits, inputs)).backward()
    optimizer.step()
    optimizer.zero_grad()
    report = codistiller.step(task_loss=task_loss.detach())
    if step % 50 == 0 and rank == 0:
        # Rank 0 saves what all ranks load: it alone knows what was published.
        state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {"codistiller": codistiller.state_dict()}
        state |= {"sampler": sampler.state_dict(samples=report.samples)}
        options.checkpoints.mkdir(parents=True, exist_ok=True)
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)
        print(f"peer {options.peer}: saved step {step}, restarted {restarts} times", flush=True)
    if step == options.steps and rank == 0:
        print(
            f"peer {options.peer}: task loss {task_loss.item():.3f} after {step} steps of {ranks} ranks, "
            f"{report.teacher_share:.0%} of them with a teacher; last teachers: {dict(report.teachers)}"
        )
codistiller.close()
dist.destroy_process_group()
