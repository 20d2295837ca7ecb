"""A training script that is a peer: the lines between the marks are all that codistillation adds.

    python examples/three_lines.py --peer a --store runs/three_lines &
    python examples/three_lines.py --peer b --store runs/three_lines

Both wait for each other's first snapshot, then neither waits again.
"""

import argparse

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from codistill import CheckpointExchange, Codistiller, Membership

arguments = argparse.ArgumentParser()
arguments.add_argument("--peer", required=True, help="this job's name")
arguments.add_argument("--store", required=True, help="a folder that all peers see")
options = arguments.parse_args()

# Each peer draws its own weights and its own samples: peers that start equal stay equal, and learn nothing.
torch.manual_seed(sum(options.peer.encode()))
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
directions = torch.linspace(-1, 1, 80).reshape(20, 4).sin()
loader = ((inputs, (inputs @ directions).argmax(1)) for inputs in (torch.randn(32, 20) for _ in range(300)))

# [three lines]
exchange = CheckpointExchange(options.store, peer=options.peer, membership=Membership(start_with_peers=1))
codistiller = Codistiller(model, exchange)
for inputs, targets in loader:
    logits = model(inputs)
    task_loss = cross_entropy(logits, targets)
    loss = task_loss + codistiller.loss(logits, inputs)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    report = codistiller.step(task_loss=task_loss.detach())
codistiller.close()
# [three lines]

print(
    f"peer {options.peer}: task loss {task_loss.item():.3f} after {report.step} steps, "
    f"{report.teacher_share:.0%} of them with a teacher; last teachers: {dict(report.teachers)}"
)
