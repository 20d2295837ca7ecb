"""Scikit-learn's handwritten digits in a plain loop of Accelerate, as anybody would train them."""

import argparse

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

arguments = argparse.ArgumentParser()
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
for _ in range(options.epochs):
    for inputs, targets in loader:
        with accelerator.accumulate(model):
            logits = model(inputs)
            task_loss = cross_entropy(logits, targets)
            accelerator.backward(task_loss)
            optimizer.step()
            optimizer.zero_grad()

model.eval()
right = []
for inputs, targets in test_loader:
    with torch.no_grad():
        found = model(inputs).argmax(1)
    right.append(accelerator.gather_for_metrics(found == targets))
accelerator.print(f"test accuracy {torch.cat(right).float().mean().item():.3f}")
accelerator.end_training()
