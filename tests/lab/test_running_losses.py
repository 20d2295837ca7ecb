import pytest
import torch

from codistill.lab.running_losses import RunningLosses


def test_means_are_over_the_steps_that_had_a_value() -> None:
    losses = RunningLosses(torch.device("cpu"))
    losses.add(torch.tensor(1.0), None)
    losses.add(torch.tensor(2.0), torch.tensor(0.5))
    losses.add(torch.tensor(6.0), torch.tensor(0.25))
    assert float(losses.mean_task_loss()) == 3.0
    assert losses.mean_distillation_loss() == pytest.approx(0.375)


def test_without_a_teacher_there_is_no_distillation_loss() -> None:
    losses = RunningLosses(torch.device("cpu"))
    losses.add(torch.tensor(1.0), None)
    assert losses.mean_distillation_loss() is None


def test_sums_go_on_from_their_state() -> None:
    losses, resumed = (RunningLosses(torch.device("cpu")) for _ in range(2))
    losses.add(torch.tensor(1.0), torch.tensor(3.0))
    resumed.load_state_dict(losses.state_dict())
    resumed.add(torch.tensor(2.0), torch.tensor(4.0))
    assert float(resumed.mean_task_loss()) == 1.5
    assert resumed.mean_distillation_loss() == 3.5
    assert float(losses.mean_task_loss()) == 1.0
