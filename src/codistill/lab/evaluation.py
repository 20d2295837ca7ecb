"""How a model does on a part of the data."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codistill.lab.tasks.base import Task
from codistill.lab.tasks.samples import IGNORED, Samples, to_device

# Larger ones leave a core's caches: ResNet-8 is scored in two thirds of the time that 1,000 take.
_BATCH_SIZE = 128
_MOST_NUMBERS = 16_000_000
"""Log-probabilities that are held at once while scoring."""
_MOST_CLASSES_KEPT = 1000
"""Of more classes, only what the right one and the likeliest one got is kept."""
_CALIBRATION_BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a model scores on one part of the data; positions are samples, or all that count in sequences."""

    accuracy: float
    """Share of right answers."""
    nll: float
    """Mean negative log-likelihood, in nats."""
    targets: Tensor
    """Right answers, int64 [positions], on the CPU like all that follows."""
    labels: Tensor
    """The likeliest class, int64 [positions]."""
    confidences: Tensor
    """The probability of that class, float32 [positions]."""
    target_log_probabilities: Tensor
    """Log-probability of the right class, float32 [positions]."""
    log_probabilities: Tensor | None
    """float32 [positions, classes]; None if there are more than 1,000 classes."""

    def calibration_error(self) -> float:
        """Return the expected calibration error of the likeliest class, over 15 bins of equal width.

        The mean over positions of |confidence - accuracy|, both means over a bin (Guo et al. 2017, equation
        3). A test holds it to torchmetrics, whose import takes every process of a run seconds.
        """
        edges = torch.linspace(0.0, 1.0, _CALIBRATION_BINS + 1)
        bins = torch.bucketize(self.confidences, edges, right=True) - 1
        excess = self.confidences.double() - (self.labels == self.targets).double()
        # The last is of confidences of exactly 1.
        sums = torch.zeros(_CALIBRATION_BINS + 1, dtype=torch.float64).index_add_(0, bins, excess)
        return float(sums.abs().sum() / len(excess))


def score(model: nn.Module, samples: Samples, *, task: Task, device: torch.device) -> Scores:
    """Score a model in eval mode, and leave it in train mode.

    Args:
        model: Returns logits.
        samples: The data.
        task: Makes stored inputs ready for the model, and logits log-probabilities.
        device: Where the model is.
    """
    model.eval()
    targets, labels, confidences, of_targets, whole = [], [], [], [], []
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(samples)), _rows_at_once(samples, task)):
            stored, expected = samples.batch(rows)
            inputs = task.inputs(to_device(stored, device))
            logits = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
            found = task.log_probabilities(logits).cpu()
            expected = expected.cpu().reshape(-1)
            found = found.reshape(-1, found.shape[-1])
            if bool((expected == IGNORED).any()):
                found, expected = found[expected != IGNORED], expected[expected != IGNORED]
            confidence, label = found.max(dim=1)
            targets.append(expected)
            labels.append(label)
            confidences.append(confidence.exp())
            of_targets.append(found.gather(1, expected[:, None])[:, 0])
            if found.shape[1] <= _MOST_CLASSES_KEPT:
                whole.append(found)
    model.train()
    all_targets, all_labels = torch.cat(targets), torch.cat(labels)
    target_log_probabilities = torch.cat(of_targets)
    return Scores(
        accuracy=float((all_labels == all_targets).double().mean()),
        nll=-float(target_log_probabilities.double().mean()),
        targets=all_targets,
        labels=all_labels,
        confidences=torch.cat(confidences).clamp(max=1.0),
        target_log_probabilities=target_log_probabilities,
        log_probabilities=torch.cat(whole) if whole else None,
    )


def _rows_at_once(samples: Samples, task: Task) -> int:
    # Where batches are trimmed to their longest sample, a few are looked at.
    _, targets = samples.batch(torch.arange(min(len(samples), 64)))
    return max(1, min(_BATCH_SIZE, _MOST_NUMBERS // (targets[0].numel() * task.classes)))
