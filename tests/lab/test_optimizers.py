from dataclasses import replace

import pytest
import torch
from torch import nn

from codistill.lab.optimizers import make_optimizer
from codistill.lab.recipe import Recipe

EXPECTED = {
    "sgd": torch.optim.SGD,
    "nesterov": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
}


def one_step(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_name_gives_torch_s_own_optimizer(tiny: Recipe, name: str) -> None:
    optimizer = make_optimizer(replace(tiny, optimizer=name), nn.Linear(3, 2), learning_rate=0.5)
    assert type(optimizer) is EXPECTED[name]
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 1e-3)
    assert group.get("nesterov", False) == (name == "nesterov")


@pytest.mark.parametrize("name", [*sorted(EXPECTED), "lars"])
def test_every_optimizer_changes_every_parameter(tiny: Recipe, name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    before = [p.detach().clone() for p in model.parameters()]
    one_step(make_optimizer(replace(tiny, optimizer=name), model, learning_rate=0.1), model)
    assert all(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_lars_scales_a_matrix_s_step_by_the_ratio_of_norms(tiny: Recipe) -> None:
    # You et al. 2017: learning rate * eta * |w| / (|g| + decay * |w|), here without momentum and decay.
    torch.manual_seed(0)
    model = nn.Linear(3, 2, bias=False)
    recipe = replace(tiny, optimizer="lars", momentum=0.0, weight_decay=0.0)
    before = model.weight.detach().clone()
    optimizer = make_optimizer(recipe, model, learning_rate=2.0)
    one_step(optimizer, model)
    step = (before - model.weight.detach()).norm()
    assert float(step) == pytest.approx(2.0 * 0.001 * float(before.norm()), rel=1e-4)


def test_norms_and_biases_may_be_kept_from_decaying(tiny: Recipe) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    recipe = replace(tiny, decays_norms_and_biases=False)
    decaying, others = make_optimizer(recipe, model, learning_rate=0.1).param_groups
    assert [p.dim() for p in decaying["params"]] == [2]
    assert [p.dim() for p in others["params"]] == [1, 1, 1]
    assert (decaying["weight_decay"], others["weight_decay"]) == (1e-3, 0.0)
