import copy
import importlib.util
import math
import subprocess
import sys

import pytest
import torch

from codistill.schedules import AtDrops, BurnIn, Constant, Cosine, Exponential, Linear, apply, as_schedule

BAD_VALUES = [-0.1, math.nan, math.inf]


def test_importing_schedules_and_topologies_does_not_import_torch():
    # Beside an empty root, as the package's own imports everything.
    code = """
import importlib, sys, types
root = types.ModuleType("codistill")
root.__path__ = [sys.argv[1]]
sys.modules["codistill"] = root
importlib.import_module("codistill." + sys.argv[2])
sys.exit("torch" in sys.modules)
"""
    folder = importlib.util.find_spec("codistill").submodule_search_locations[0]
    for name in ("schedules", "topologies"):
        subprocess.run([sys.executable, "-c", code, folder, name], check=True)


def test_constant_is_constant():
    assert [Constant(0.3)(step) for step in (0, 1, 10**9)] == [0.3] * 3


@pytest.mark.parametrize("drops", [{30: 0.0, 10: 0.5}, [(30, 0.0), (10, 0.5)], ((10, 0.5), (30, 0.0))])
def test_at_drops_changes_at_its_steps(drops):
    schedule = AtDrops(1.0, drops)
    assert [schedule(step) for step in (0, 9, 10, 29, 30, 31)] == [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]
    assert schedule == AtDrops(1.0, {10: 0.5, 30: 0.0})
    assert hash(schedule) == hash(AtDrops(1.0, {10: 0.5, 30: 0.0}))


def test_at_drops_does_not_follow_its_mapping_later():
    drops = {10: 0.5}
    schedule = AtDrops(1.0, drops)
    drops[10] = 0.25
    assert schedule(10) == 0.5


def test_exponential_grows_once_an_epoch_up_to_its_maximum():
    schedule = Exponential(0.01, 1.1, every_steps=100, maximum=0.0121)
    assert schedule(0) == schedule(99) == 0.01
    assert schedule(100) == pytest.approx(0.011)
    assert schedule(10**9) == 0.0121


def test_exponential_decays():
    assert Exponential(8.0, 0.5)(3) == 1.0
    assert Exponential(8.0, 0.5)(10**6) == 0.0


def test_exponential_without_maximum_says_so_when_it_overflows():
    with pytest.raises(OverflowError, match="Pass maximum="):
        Exponential(1.0, 10.0)(400)
    with pytest.raises(OverflowError, match="Pass maximum="):
        Exponential(1e200, 10.0)(200)


@pytest.mark.parametrize(("kind", "quarter"), [(Linear, 0.25), (Cosine, (1 - math.sqrt(0.5)) / 2)])
def test_ramps_are_flat_before_and_after(kind, quarter):
    up = kind(0.0, 2.0, 40, begin_step=100)
    assert [up(step) for step in (0, 100)] == [0.0, 0.0]
    assert up(110) == pytest.approx(2 * quarter)
    assert up(120) == pytest.approx(1.0)
    assert [up(step) for step in (140, 10**6)] == [2.0, 2.0]
    assert kind(2.0, 0.0, 40)(10) == pytest.approx(2 - 2 * quarter)


def test_burn_in_is_a_hard_switch_and_shows_the_absolute_step():
    schedule = BurnIn(Linear(0.0, 1.0, 100), 50)
    assert schedule(49) == 0.0
    assert schedule(50) == pytest.approx(0.5)
    assert schedule(100) == 1.0
    assert BurnIn(0.7, 0)(0) == 0.7


def test_schedules_are_values():
    assert {Constant(1.0), Constant(1.0), Linear(0, 1, 5)} == {Constant(1.0), Linear(0, 1, 5)}
    assert BurnIn(1.0, 5) == BurnIn(Constant(1.0), 5)
    with pytest.raises(AttributeError):
        Constant(1.0).value = 2.0


@pytest.mark.parametrize("bad", BAD_VALUES)
def test_values_must_be_finite_and_not_negative(bad):
    for make in (
        lambda: Constant(bad),
        lambda: AtDrops(bad, {}),
        lambda: AtDrops(1.0, {3: bad}),
        lambda: Exponential(bad, 1.0),
        lambda: Exponential(1.0, bad),
        lambda: Linear(bad, 1.0, 3),
        lambda: Cosine(1.0, bad, 3),
        lambda: BurnIn(bad, 3),
        lambda: as_schedule(bad),
    ):
        with pytest.raises(ValueError, match=r"must be finite and >"):
            make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Exponential(0.0, 1.1), "initial must be finite and > 0"),
        (lambda: Exponential(1.0, 1.1, every_steps=0), "every_steps must be >= 1"),
        (lambda: Exponential(1.0, 1.1, maximum=0.5), "maximum must be >= initial"),
        (lambda: Linear(0.0, 1.0, 0), "steps must be >= 1"),
        (lambda: Cosine(0.0, 1.0, 5, begin_step=-1), "begin_step must be >= 0"),
        (lambda: BurnIn(1.0, -1), "steps must be >= 0"),
        (lambda: AtDrops(1.0, {-1: 0.5}), "drops must be >= 0"),
        (lambda: AtDrops(1.0, [(5, 0.5), (5, 0.1)]), "drops must have one value a step"),
    ],
)
def test_bad_steps_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_steps_must_be_whole_and_values_numbers():
    with pytest.raises(TypeError, match=r"steps must be an int, got 10\.0"):
        Linear(0.0, 1.0, 10.0)
    with pytest.raises(TypeError, match="value must be a number, got True"):
        Constant(True)


def test_as_schedule_takes_numbers_and_functions():
    assert as_schedule(2) == Constant(2.0)
    own = lambda step: step / 10  # noqa: E731 - a bare function is what is tested
    assert as_schedule(own) is own
    for bad in (True, "0.5", None):
        with pytest.raises(TypeError, match="schedule must be a number or a function"):
            as_schedule(bad)


def optimizer_with_a_bias_group(**options) -> torch.optim.Optimizer:
    weight, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    groups = [
        {"params": [weight], "weight_decay": 1e-4},
        {"params": [bias], "weight_decay": 0.0, "lr_scale": 2.0},
    ]
    return torch.optim.SGD(groups, lr=1.0, **options)


def settings(optimizer: torch.optim.Optimizer, key: str) -> list[float]:
    return [group[key] for group in optimizer.param_groups]


def test_apply_sets_the_learning_rate_of_every_group_times_its_scale():
    optimizer = optimizer_with_a_bias_group()
    apply(optimizer, lr=0.5)
    assert settings(optimizer, "lr") == [0.5, 1.0]
    assert settings(optimizer, "weight_decay") == [1e-4, 0.0]
    apply(optimizer, step=5, lr=Linear(0.0, 1.0, 10))
    assert settings(optimizer, "lr") == [0.5, 1.0]


def test_apply_leaves_groups_built_without_weight_decay_alone():
    optimizer = optimizer_with_a_bias_group()
    apply(optimizer, weight_decay=1e-5)
    assert settings(optimizer, "weight_decay") == [1e-5, 0.0]


def test_weight_decay_comes_back_to_the_same_groups_after_zero():
    optimizer = optimizer_with_a_bias_group()
    seen = []
    for step in range(3):
        apply(optimizer, step=step, weight_decay=AtDrops(1e-4, {1: 0.0, 2: 1e-5}))
        seen.append(settings(optimizer, "weight_decay"))
    assert seen == [[1e-4, 0.0], [0.0, 0.0], [1e-5, 0.0]]


def test_a_resumed_optimizer_knows_its_weight_decay_groups_at_zero():
    optimizer = optimizer_with_a_bias_group()
    apply(optimizer, weight_decay=0.0)
    saved = copy.deepcopy(optimizer.state_dict())
    resumed = optimizer_with_a_bias_group()
    resumed.load_state_dict(saved)
    apply(resumed, weight_decay=1e-5)
    assert settings(resumed, "weight_decay") == [1e-5, 0.0]


def test_apply_changes_what_the_next_step_does():
    optimizer = optimizer_with_a_bias_group()
    weight = optimizer.param_groups[0]["params"][0]
    weight.grad = torch.zeros_like(weight)
    apply(optimizer, lr=0.5, weight_decay=0.5)
    optimizer.step()
    assert weight.tolist() == [[0.75, 0.75], [0.75, 0.75]]


def test_apply_fills_a_tensor_learning_rate_in_place():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=torch.tensor(1.0))
    held = optimizer.param_groups[0]["lr"]
    apply(optimizer, lr=0.25)
    assert held.item() == 0.25


def test_apply_without_anything_to_apply_is_refused():
    with pytest.raises(ValueError, match="lr or weight_decay must be given"):
        apply(optimizer_with_a_bias_group(), step=3)


@pytest.mark.parametrize("key", ["lr", "weight_decay"])
def test_a_schedule_needs_a_step(key):
    with pytest.raises(TypeError, match=f"step must be given with a schedule for {key}"):
        apply(optimizer_with_a_bias_group(), **{key: Linear(0.0, 1.0, 5)})
    with pytest.raises(ValueError, match="step must be >= 0"):
        apply(optimizer_with_a_bias_group(), step=-1, **{key: Linear(0.0, 1.0, 5)})


@pytest.mark.parametrize("bad", BAD_VALUES)
def test_what_a_schedule_of_ones_own_returns_is_checked(bad):
    optimizer = optimizer_with_a_bias_group()
    with pytest.raises(ValueError, match="lr must be finite and >= 0"):
        apply(optimizer, step=1, lr=lambda step: bad)
    assert settings(optimizer, "lr") == [1.0, 1.0]


def test_an_optimizer_without_weight_decay_is_refused():
    parameter = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(
        ValueError, match="weight decay in every parameter group, got none in group 0 of LBFGS"
    ):
        apply(torch.optim.LBFGS([parameter]), weight_decay=1e-4)


def test_a_weight_decay_that_would_reach_no_group_is_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0)
    with pytest.raises(ValueError, match="built with a weight decay > 0"):
        apply(optimizer, weight_decay=1e-4)
    apply(optimizer, weight_decay=0.0)
    assert settings(optimizer, "weight_decay") == [0]
