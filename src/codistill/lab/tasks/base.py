"""What a task offers to the trainer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from torch import Generator, Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One part of a data set, whole in memory."""

    inputs: Tensor
    """[samples, ...], as stored; `Task.training_inputs` and `Task.inputs` make them ready for the model."""
    targets: Tensor
    """[samples], int64 class numbers."""


class Task(ABC):
    """A classification task: data, model, and how samples are made ready.

    Attributes:
        classes: Number of classes.
        train: The training data.
        validation: Data that choices may be made on.
    """

    classes: int
    train: Split
    validation: Split

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
    def test(self) -> Split:
        """Load the test data: for the very end, once."""

    @abstractmethod
    def model(self, width: int | None = None) -> nn.Module:
        """Return a new model; its initial weights come from torch's global generator.

        Args:
            width: Units or channels of its layers; None for the task's own.
        """

    def training_inputs(self, inputs: Tensor, generator: Generator) -> Tensor:  # noqa: ARG002 - for subclasses
        """Return a batch of `Split` inputs, augmented and ready for the model.

        Args:
            inputs: [batch, ...] as stored.
            generator: The only source of randomness; on the CPU.
        """
        return self.inputs(inputs)

    def inputs(self, inputs: Tensor) -> Tensor:
        """Return a batch of `Split` inputs ready for the model, without augmentation."""
        return inputs
