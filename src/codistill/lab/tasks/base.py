"""What a task offers to the trainer: data, model, loss and metric."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from codistill.errors import RecipeError
from codistill.lab.tasks.samples import IGNORED, Inputs, Samples


class Task(ABC):
    """Data, model, how samples are made ready, and what a prediction is held against.

    The defaults are those of choosing one of several classes, once a sample or at every position of a
    sequence.

    Attributes:
        classes: Number of classes.
        train: The training data.
        validation: Data that choices may be made on.
    """

    models: ClassVar[tuple[str, ...]]
    """Names of its models, the usual one first."""
    metric: ClassVar[Literal["accuracy", "nll"]] = "accuracy"
    """What a search chooses by and claims are judged by: the higher accuracy, or the lower NLL."""

    classes: int
    train: Samples
    validation: Samples

    @classmethod
    @abstractmethod
    def prepare(cls, data_root: Path) -> None:
        """Make sure that jobs will be able to load the data, and do once what each would do otherwise.

        Raises:
            DataMissingError: If the data are not under ``data_root``.
            ExtraMissingError: If a package that reads them is not installed.
        """

    @abstractmethod
    def __init__(self, data_root: Path) -> None:
        """Load training and validation data.

        Raises:
            DataMissingError: If the data are not under ``data_root``.
            ExtraMissingError: If a package that reads them is not installed.
        """

    @abstractmethod
    def test(self) -> Samples:
        """Load the test data: for the very end, once."""

    @abstractmethod
    def model(self, name: str | None = None, *, width: int | None = None) -> nn.Module:
        """Return a new model; its initial weights come from torch's global generator.

        Args:
            name: One of `models`; None for the first.
            width: Units or channels of its layers; None for the model's own.

        Raises:
            RecipeError: If there is no such model, or it has no width to set.
        """

    def training_inputs(self, inputs: Any, generator: Generator) -> Inputs:  # noqa: ARG002 - for subclasses
        """Return a batch of stored inputs, augmented and ready for the model.

        Args:
            inputs: As `Samples.batch` returns them.
            generator: The only source of randomness; on the CPU.
        """
        return self.inputs(inputs)

    def inputs(self, inputs: Any) -> Inputs:
        """Return a batch of stored inputs ready for the model, without augmentation."""
        ready: Inputs = inputs
        return ready

    def loss(
        self, logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, prior: Tensor | None = None
    ) -> Tensor:
        """Return the task loss: cross entropy, mean over the positions that count, 0-d.

        Args:
            logits: [batch, ..., classes].
            targets: [batch, ...], `IGNORED` where a position does not count.
            smoothing: Share of each label that is spread over the classes.
            prior: How it is spread: float [classes], sum 1; evenly if None.
        """
        logits, targets = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
        if prior is None or smoothing == 0.0:
            return F.cross_entropy(logits, targets, ignore_index=IGNORED, label_smoothing=smoothing)
        log_probabilities = F.log_softmax(logits.float(), dim=-1)
        hard = F.nll_loss(log_probabilities, targets, ignore_index=IGNORED)
        counts = targets != IGNORED
        spread = -(log_probabilities @ prior)
        return (1 - smoothing) * hard + smoothing * (spread * counts).sum() / counts.sum()

    def mask(self, targets: Tensor) -> Tensor | None:
        """Return where a position counts, boolean and of the shape of ``targets``; None for everywhere."""
        return None if targets.dim() == 1 else targets != IGNORED

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Return the log-probability of every class, float32 [batch, ..., classes]."""
        return F.log_softmax(logits.float(), dim=-1)

    def class_frequencies(self) -> Tensor:
        """Return how often each class is the target in the training data, float32 [classes], sum 1."""
        counts = torch.zeros(self.classes, dtype=torch.float64)
        for rows in torch.split(torch.arange(len(self.train)), 4096):
            _, targets = self.train.batch(rows)
            valid = targets[targets != IGNORED].cpu()
            counts += torch.bincount(valid, minlength=self.classes).double()
        return (counts / counts.sum()).float()

    def further_scores(
        self,
        model: nn.Module,  # noqa: ARG002 - for subclasses
        samples: Samples,  # noqa: ARG002
        *,
        device: torch.device,  # noqa: ARG002
    ) -> Mapping[str, float]:
        """Return what else a trained model scores, by name, such as BLEU; read at the end of a run only.

        Args:
            model: In eval mode, on ``device``.
            samples: Of validation or test.
            device: Where the model is.
        """
        return {}


def choose_model(task: Task, name: str | None) -> str:
    """Return the name of the model that is asked for; the task's first if None.

    Raises:
        RecipeError: If the task has none of that name.
    """
    if name is None:
        return task.models[0]
    if name not in task.models:
        raise RecipeError(f"model must be one of {', '.join(task.models)}, got {name!r}.")
    return name
