"""How a model does on a part of the data."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codistill.lab.tasks.base import Split, Task

_BATCH_SIZE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a model scores on one part of the data."""

    accuracy: float
    """Share of right answers."""
    nll: float
    """Mean negative log-likelihood, in nats."""
    log_probabilities: Tensor
    """float32 [samples, classes], on the CPU."""


def score(model: nn.Module, split: Split, *, task: Task, device: torch.device) -> Scores:
    """Score a model in eval mode, and leave it in train mode.

    Args:
        model: Returns logits [batch, classes].
        split: The data.
        task: Makes stored inputs ready for the model.
        device: Where the model is.
    """
    model.eval()
    chunks = []
    with torch.no_grad():
        for inputs in torch.split(split.inputs, _BATCH_SIZE):
            logits = model(task.inputs(inputs.to(device)))
            chunks.append(F.log_softmax(logits.float(), dim=1).cpu())
    model.train()
    log_probabilities = torch.cat(chunks)
    right = log_probabilities.argmax(dim=1) == split.targets
    return Scores(
        accuracy=float(right.double().mean()),
        nll=float(F.nll_loss(log_probabilities.double(), split.targets)),
        log_probabilities=log_probabilities,
    )
