"""What is logged of codistillation, in one line with the Trainer's own loss."""

from typing import final

from torch import Tensor

from codistill.step_report import StepReport


@final
class LogValues:
    """Means over the steps since the last line, as the Trainer's own ``loss`` is, and the last step's report.

    Values stay on the device until a line is written.
    """

    def __init__(self) -> None:
        self._task_loss: Tensor | None = None
        self._distillation_loss: Tensor | None = None
        self._steps = 0
        self._steps_with_teacher = 0
        self._report: StepReport | None = None

    def add(self, task_loss: Tensor, report: StepReport) -> None:
        """Count a step.

        Args:
            task_loss: This step's, 0-d, detached.
            report: What the codistiller says of it.
        """
        self._task_loss = task_loss if self._task_loss is None else self._task_loss + task_loss
        self._steps += 1
        term = report.distillation_loss
        if term is not None:
            self._distillation_loss = (
                term if self._distillation_loss is None else self._distillation_loss + term
            )
            self._steps_with_teacher += 1
        self._report = report

    def take(self) -> dict[str, float]:
        """Return the values, and begin a new line; nothing if there was no step since the last."""
        if self._report is None or self._task_loss is None:
            return {}
        report = self._report
        values = {
            "task_loss": float(self._task_loss) / self._steps,
            "weight": report.weight,
            "teacher_share": report.teacher_share,
            "stall_s": report.stall_s,
        }
        if self._distillation_loss is not None:
            values["distillation_loss"] = float(self._distillation_loss) / self._steps_with_teacher
        if report.agreement is not None:
            values["agreement"] = report.agreement
        values |= {f"age_steps/{peer}": float(age) for peer, age in report.teachers.items()}
        self._task_loss = self._distillation_loss = self._report = None
        self._steps = self._steps_with_teacher = 0
        return {f"codistill/{name}": value for name, value in values.items()}
