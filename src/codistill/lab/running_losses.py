"""Losses since the last evaluation, added up where they were computed."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class RunningLosses:
    """Sums of the task loss and of the distillation loss; nothing waits for the device before a mean."""

    def __init__(self, device: torch.device) -> None:
        self._steps = 0
        self._task_loss = torch.zeros((), device=device)
        self._taught_steps = 0
        self._distillation_loss = torch.zeros((), device=device)

    def add(self, task_loss: Tensor, distillation_loss: Tensor | None) -> None:
        """Count one step; both losses detached, the second None for a step without a teacher."""
        self._steps += 1
        self._task_loss += task_loss
        if distillation_loss is not None:
            self._taught_steps += 1
            self._distillation_loss += distillation_loss

    def mean_task_loss(self) -> Tensor:
        """Return the mean over the steps, 0-d."""
        return self._task_loss / self._steps

    def mean_distillation_loss(self) -> float | None:
        """Return the mean over the steps that had a teacher; None if there were none."""
        if self._taught_steps == 0:
            return None
        return float(self._distillation_loss / self._taught_steps)

    def state_dict(self) -> dict[str, Any]:
        """Return numbers and tensors."""
        return {
            "steps": self._steps,
            "task_loss": self._task_loss,
            "taught_steps": self._taught_steps,
            "distillation_loss": self._distillation_loss,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._steps, self._taught_steps = state["steps"], state["taught_steps"]
        self._task_loss.copy_(state["task_loss"])
        self._distillation_loss.copy_(state["distillation_loss"])
