"""What a peer has counted: steps, samples, losses."""

import operator
from typing import Any, Self

import torch
from torch import Tensor

from codistill.arguments import check_int
from codistill.exchange.base import Predictions, Progress
from codistill.snapshots.document import Fields


class Tally:
    """Steps, samples and losses of a peer, and of the step that is under way.

    Attributes:
        step: Optimizer steps done.
        samples: Samples trained on.
        teacher_samples: Samples that teachers have predicted on, each teacher counted.
        losses_of_step: Distillation losses asked for since the last step.
        distillation_losses: Those of the step that is under way, unweighted.
    """

    def __init__(self) -> None:
        self.step = 0
        self.samples = 0
        self.teacher_samples = 0
        self.losses_of_step = 0
        self.distillation_losses = RunningMean()
        self._steps_with_teacher = 0
        self._task_losses = RunningMean()
        self._told: tuple[float | None, float | None] = (None, None)
        self._samples_of_step = 0
        self._predictions_of_step: list[Predictions] = []

    @property
    def teacher_share(self) -> float:
        """Share of all steps that had a teacher."""
        return self._steps_with_teacher / self.step if self.step else 0.0

    def count_loss(
        self,
        logits: Tensor,
        predictions: Predictions,
        term: Tensor | None,
        *,
        is_shared: bool,
        ranks: int = 1,
    ) -> None:
        """Count a distillation loss that went well.

        Args:
            logits: The student's.
            predictions: The teachers'.
            term: The unweighted loss; None without a teacher.
            is_shared: Whether several heads may share these predictions, and with them their samples.
            ranks: How many ranks the peer has, each of which sees as many.
        """
        if not any(predictions is seen for seen in self._predictions_of_step):
            self._samples_of_step += _batch_size(logits)
            self.teacher_samples += ranks * len(predictions.peers) * _batch_size(logits)
        if is_shared:
            self._predictions_of_step.append(predictions)
        if term is not None:
            self.distillation_losses.add(term)
        self.losses_of_step += 1

    def count_step(
        self, *, task_loss: Tensor | float | None, samples: int | None, has_teacher: bool, ranks: int = 1
    ) -> None:
        """Count an optimizer step.

        Args:
            task_loss: Its task loss, if it is told.
            samples: Its samples; None for what the losses saw, on each of the ranks.
            has_teacher: Whether there was a teacher.
            ranks: How many ranks the peer has.

        Raises:
            TypeError, ValueError: If an argument is not as described; nothing has been counted then.
        """
        samples = self._samples_of_step * ranks if samples is None else _checked_samples(samples)
        if task_loss is not None:
            self._task_losses.add(_checked_task_loss(task_loss))
        self.step += 1
        self.samples += samples
        self._steps_with_teacher += has_teacher

    def begin_next_step(self) -> None:
        """Forget what belongs to the step that has ended."""
        self.losses_of_step = 0
        self.distillation_losses = RunningMean()
        self._samples_of_step = 0
        self._predictions_of_step = []

    def progress(self, *, with_losses: bool, **told: Any) -> Progress:
        """Return how far training is.

        Args:
            with_losses: Read the losses since they were told last, which waits for their device, and begin
                a new mean; else those told last.
            told: What else the others are told, by field of ``Progress``.
        """
        if with_losses:
            task_loss, distillation_loss = self._told
            if self._task_losses.count:
                task_loss = self._task_losses.value()
            if self.distillation_losses.count:
                distillation_loss = self.distillation_losses.value()
            self._told = (task_loss, distillation_loss)
            self._task_losses = RunningMean()
        task_loss, distillation_loss = self._told
        return Progress(
            step=self.step,
            samples=self.samples,
            task_loss=task_loss,
            distillation_loss=distillation_loss,
            **told,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts as numbers."""
        return {
            "step": self.step,
            "samples": self.samples,
            "steps_with_teacher": self._steps_with_teacher,
            "teacher_samples": self.teacher_samples,
            "task_loss": self._task_losses.value(),
            "task_losses": self._task_losses.count,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Return the tally that ``state_dict`` was taken of.

        Raises:
            ValueError: If a field is missing or not what it should be.
        """
        tally = cls()
        tally.step = fields.integer("step")
        tally.samples = fields.integer("samples")
        tally.teacher_samples = fields.integer("teacher_samples")
        tally._steps_with_teacher = fields.integer("steps_with_teacher")
        tally._task_losses = RunningMean.of(fields.number_or_none("task_loss"), fields.integer("task_losses"))
        return tally


class RunningMean:
    """A mean that leaves its numbers on their device until it is asked."""

    def __init__(self, total: Tensor | None = None, count: int = 0) -> None:
        self._total = total
        self.count = count

    @classmethod
    def of(cls, mean: float | None, count: int) -> Self:
        """Return the mean of ``count`` values as it was saved."""
        return cls(None if mean is None else torch.tensor(mean * count, dtype=torch.float64), count)

    def add(self, value: Tensor) -> None:
        """Take one more value into account."""
        value = value.detach().double() if value.device.type == "cpu" else value.detach().float()
        self._total = value if self._total is None else self._total.to(value) + value
        self.count += 1

    def tensor(self) -> Tensor | None:
        """Return the mean, None before the first value."""
        return None if self._total is None else self._total / self.count

    def value(self) -> float | None:
        """Return the mean as a number, which waits for its device; None before the first value."""
        mean = self.tensor()
        return None if mean is None else float(mean)


def _checked_samples(samples: int) -> int:
    # Whatever is an integer will do, a NumPy one or a 0-d tensor too; what is stored is an int.
    try:
        count = samples if isinstance(samples, bool) else operator.index(samples)
    except TypeError:
        count = samples
    return check_int("samples", count, minimum=0, hint="It counts the samples of this step.")


def _checked_task_loss(task_loss: Tensor | float) -> Tensor:
    loss = torch.as_tensor(task_loss)
    if loss.numel() != 1:
        raise ValueError(
            f"task_loss must be one number, got a tensor of shape {list(loss.shape)}. Pass its mean."
        )
    return loss.reshape(())


def _batch_size(logits: Tensor) -> int:
    return logits.shape[0] if logits.ndim > 0 else 1
