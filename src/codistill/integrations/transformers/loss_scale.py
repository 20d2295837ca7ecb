"""How the Trainer's own loss came to be scaled, so that the distillation loss is scaled alike."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def is_divided_by_count(
    loss: Tensor, logits: Tensor, targets: Tensor, *, divided: Tensor, mean: float
) -> bool | None:
    """Return whether a model has divided its loss by the number of labels that it was told.

    Many models take ``num_items_in_batch`` and return a mean over their own micro-batch all the same
    (Transformers 5.24: T5, BERT, every head that classifies sequences). The Trainer does not notice, and
    adds up such means. What it cannot ask the model, the loss tells: it is nearer to one or to the other.

    Args:
        loss: The model's, as the Trainer has it; one value, or one a device.
        logits: The student's, [..., classes].
        targets: Labels, [...]; what is no class does not count.
        divided: What a sum over labels would have been divided by.
        mean: What a mean over labels would have been multiplied by.

    Returns:
        None where both are the same, or nothing counts. Waits for the device.
    """
    total, count = 0.0, 0
    # A row at a time: the logits of a whole batch may be most of a device's memory.
    for row, wanted in zip(logits.detach(), targets, strict=True):
        counts = (wanted >= 0) & (wanted < logits.shape[-1])
        count += int(counts.sum())
        total += float(cross_entropy(row[counts].float(), wanted[counts], reduction="sum"))
    value = float(loss.detach().mean())
    if count == 0 or not (total > 0.0 and value > 0.0 and math.isfinite(total + value)):
        return None
    as_sum, as_mean = math.log(total / float(divided)), math.log(total / count * mean)
    if abs(as_sum - as_mean) < math.log(1.1):
        return None
    return abs(math.log(value) - as_sum) < abs(math.log(value) - as_mean)


def divisor_of_sum(num_items_in_batch: Tensor | int, *, devices: int, mean: float) -> Tensor:
    """Return what the Trainer's sum over all labels of one process is divided by in the end.

    Args:
        num_items_in_batch: As the Trainer counts; one number, or the same for each device.
        devices: Devices of this process, whose losses the Trainer takes the mean of.
        mean: What the Trainer multiplies a loss by where it averages over ranks or devices.
    """
    return torch.as_tensor(num_items_in_batch, dtype=torch.float32).mean() * (devices / mean)
