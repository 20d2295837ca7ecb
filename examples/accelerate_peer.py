"""A loop of Accelerate that is a peer: scikit-learn's handwritten digits.

    python examples/accelerate_peer.py --peer a --store runs/accelerate --seed 1 &
    python examples/accelerate_peer.py --peer b --store runs/accelerate --seed 2

or, with two ranks a peer, ``accelerate launch --num_processes 2 examples/accelerate_peer.py ...``. Both wait
for each other's first snapshot, then neither waits again. Peers that start from one seed stay equal, and
learn nothing. What codistillation adds to the script: docs/accelerate.md.
"""

import argparse

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from codistill import CheckpointExchange, Codistiller, Membership

arguments = argparse.ArgumentParser()
arguments.add_argument("--peer", required=True, help="this job's name")
arguments.add_argument("--store", required=True, help="a folder that all peers see")
arguments.add_argument("--seed", type=int, default=0)
arguments.add_argument("--epochs", type=int, default=6)
options = arguments.parse_args()

digits = load_digits()
data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
torch.manual_seed(options.seed)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
loader = DataLoader(TensorDataset(*data[:1500]), batch_size=16, shuffle=True)
test_loader = DataLoader(TensorDataset(*data[1500:]), batch_size=64)

accelerator = Accelerator(gradient_accumulation_steps=2)
model, optimizer, loader, test_loader = accelerator.prepare(model, optimizer, loader, test_loader)
exchange = CheckpointExchange(options.store, peer=options.peer, membership=Membership(start_with_peers=1))
codistiller = Codistiller(model, exchange)
for _ in range(options.epochs):
    for inputs, targets in loader:
        with accelerator.accumulate(model):
            logits = model(inputs)
            task_loss = cross_entropy(logits, targets)
            accelerator.backward(task_loss + codistiller.loss(logits, inputs))
            optimizer.step()
            optimizer.zero_grad()
            if accelerator.sync_gradients:
                codistiller.step(task_loss=task_loss.detach())
codistiller.close()

model.eval()
right = []
for inputs, targets in test_loader:
    with torch.no_grad():
        found = model(inputs).argmax(1)
    right.append(accelerator.gather_for_metrics(found == targets))
accelerator.print(f"test accuracy {torch.cat(right).float().mean().item():.3f}")
accelerator.end_training()
