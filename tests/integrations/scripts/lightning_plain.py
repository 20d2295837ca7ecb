"""Learns to tell handwritten digits, with Lightning; --help says how to start it."""

import argparse

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

arguments = argparse.ArgumentParser()
arguments.add_argument("--epochs", type=int, default=20, help="passes through the data")
arguments.add_argument("--seed", type=int, help="of weights and batches; None draws one")
arguments.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
options = arguments.parse_args()


class Digits(LightningModule):
    """A small network, its loss and its optimizer."""

    def __init__(self):
        """Draw the weights."""
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch):
        """Predict a batch, and log how well."""
        inputs, targets = batch
        logits = self.net(inputs)
        loss = cross_entropy(logits, targets)
        self.log("train_loss", loss)
        return loss

    def test_step(self, batch):
        """Log the share of the test data that is told right."""
        inputs, targets = batch
        self.log("accuracy", (self.net(inputs).argmax(1) == targets).float().mean())

    def configure_optimizers(self):
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


if options.seed is not None:
    seed_everything(options.seed)
images, labels = load_digits(return_X_y=True)
inputs, targets = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
train, test = TensorDataset(inputs[:1500], targets[:1500]), TensorDataset(inputs[1500:], targets[1500:])
module = Digits()
folder = "runs/lightning"
trainer = Trainer(
    callbacks=[
        ModelCheckpoint(folder, save_last=True),
    ],
    max_epochs=options.epochs,
    logger=CSVLogger(folder, name="logs"),
    log_every_n_steps=10,
)
checkpoint = "last" if options.resume else None
trainer.fit(module, DataLoader(train, batch_size=32, shuffle=True), ckpt_path=checkpoint)
trainer.test(module, DataLoader(test, batch_size=300))
