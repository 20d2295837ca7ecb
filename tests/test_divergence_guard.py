import math
import random

import pytest
import torch
from torch import Tensor

from codistill.divergence_guard import CHECK_STEPS, FIRST_STEPS, DivergenceGuard
from codistill.snapshots.document import Fields


def observe(guard: DivergenceGuard, steps) -> list[int]:
    """Observe (term, task loss) of each step, and return after how many the term had diverged."""
    diverged = []
    for step, (term, task_loss) in enumerate(steps, start=1):
        guard.observe(None if term is None else torch.tensor(term), task_loss)
        if guard.has_diverged():
            diverged.append(step)
    return diverged


def begun(task_loss: float = 1.0) -> DivergenceGuard:
    """A guard that has been told its first task losses."""
    guard = DivergenceGuard()
    assert observe(guard, [(0.1, task_loss)] * FIRST_STEPS) == []
    return guard


def test_a_term_above_a_task_loss_that_falls_to_zero_is_a_good_training():
    steps = [(0.5 * math.exp(-step / 400), 2.3 * math.exp(-step / 100)) for step in range(2000)]
    assert steps[-1][0] > 1000 * steps[-1][1]
    assert observe(DivergenceGuard(), steps) == []


def test_a_noisy_task_loss_with_a_term_above_it_is_a_good_training():
    rng = random.Random(0)
    steps = [(2 * math.exp(rng.gauss(0, 1)), math.exp(rng.gauss(0, 0.7))) for _ in range(4000)]
    assert observe(DivergenceGuard(), steps) == []


def test_single_steps_that_jump_are_a_good_training():
    steps = [(1e3, 1e2) if step % 3 == 0 else (0.1, 1.0) for step in range(1000)]
    assert observe(DivergenceGuard(), steps) == []


def test_a_task_loss_that_rises_above_the_term_is_not_the_terms_fault():
    assert observe(begun(), [(9.0, 10.0)] * 200) == []


def test_a_term_above_a_task_loss_that_has_not_doubled_is_a_good_training():
    assert observe(begun(), [(50.0, 2.0)] * 200) == []


def test_a_task_loss_that_is_not_positive_at_first_has_no_double():
    for first in (-3.0, 0.0):
        assert observe(begun(first), [(50.0, 1.0)] * 200) == []


def test_a_term_above_a_task_loss_that_has_doubled_has_diverged_once_its_median_has():
    steps = [(0.1, 1.0)] * 11 + [(5.0, 2.1)] * 9
    assert observe(begun(), steps) == []
    steps = [(0.1, 1.0)] * 9 + [(5.0, 2.1)] * 11
    assert observe(begun(), steps) == [20]


def test_it_is_judged_again_by_the_next_steps_only():
    guard = begun()
    assert observe(guard, [(5.0, 3.0)] * 20) == [20]
    guard.halve()
    assert observe(guard, [(5.0, 3.0)] * 9 + [(0.1, 1.0)] * 11) == []
    assert observe(guard, [(5.0, 3.0)] * 40) == [20, 40]
    assert guard.factor == 0.5
    guard.halve()
    guard.halve()
    assert guard.factor == 0.125
    assert observe(guard, [(0.1, 1.0)] * 1000) == []
    assert guard.factor == 0.125


def test_a_weight_that_throws_the_student_out_is_halved_until_it_does_not():
    # Gradient descent on (s - 1)^2 / 2 and, from step 200, weight * (s - 0.9)^2 / 2: unstable if the rate
    # times the sum of their curvatures, 1 and the weight, is over 2, which it is until the weight is halved.
    guard, student, rate, weight = DivergenceGuard(), 0.0, 0.1, 24.0
    halved = []
    for step in range(1, 401):
        task_loss = (student - 1) ** 2 / 2 + 0.1
        term = guard.factor * weight * (student - 0.9) ** 2 / 2 if step > 200 else None
        pull = guard.factor * weight * (student - 0.9) if step > 200 else 0.0
        student -= rate * (student - 1 + pull)
        guard.observe(None if term is None else torch.tensor(term), torch.tensor(task_loss))
        if guard.has_diverged():
            guard.halve()
            halved.append(step)
    assert (halved, guard.factor) == ([220], 0.5)
    assert 0.9 < student < 1
    assert term < task_loss


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_term_that_is_not_finite_has_diverged_even_at_the_beginning(bad):
    assert observe(DivergenceGuard(), [(0.1, 1.0)] * 3 + [(bad, 1.0)] + [(0.1, 1.0)] * 16) == [20]
    assert observe(DivergenceGuard(), [(None, None)] * 15 + [(bad, None)] + [(None, None)] * 44) == [20]


def test_without_task_losses_only_a_term_that_is_not_finite_counts():
    assert observe(DivergenceGuard(), [(1e9, None)] * 500) == []
    assert observe(DivergenceGuard(), [(1e9, math.nan)] * 500) == []


def test_before_a_hundred_task_losses_only_a_term_that_is_not_finite_counts():
    assert observe(DivergenceGuard(), [(0.1, 1.0)] * 40 + [(50.0, 20.0)] * 40) == []


def test_task_losses_that_are_not_finite_are_no_measure():
    guard = DivergenceGuard()
    assert observe(guard, [(0.1, math.nan)] * 60 + [(0.1, math.inf)] * 60 + [(0.1, 1.0)] * 100) == []
    assert observe(guard, [(5.0, 3.0)] * 20) == [20]


def test_steps_without_a_term_are_left_out_and_fewer_than_twenty_wait_for_more():
    guard = begun()
    assert observe(guard, [(None, 1.0)] * 10 + [(5.0, 3.0)] * 10) == []
    assert observe(guard, [(None, 1.0)] * 5 + [(5.0, 3.0)] * 15) == [20]
    # The steps without a teacher say nothing of how the task loss is with one.
    assert observe(begun(), [(None, 100.0), (5.0, 1.0)] * 200) == []


def test_halving_for_another_ranks_sake_forgets_what_came_before():
    guard = begun()
    assert observe(guard, [(None, 1.0), (5.0, 3.0)] * 10) == []
    guard.halve()
    assert observe(guard, [(None, 1.0), (5.0, 3.0)] * 10) == []
    assert observe(guard, [(None, 1.0), (5.0, 3.0)] * 10) == [20]


def test_task_losses_before_the_first_teacher_are_the_measure():
    guard = DivergenceGuard()
    assert observe(guard, [(None, 1.0)] * 120 + [(5.0, 3.0)] * 20) == [140]


def test_it_decides_at_every_twentieth_step_only():
    guard = DivergenceGuard()
    due = []
    for step in range(1, 61):
        guard.observe(torch.tensor(math.nan), 1.0)
        if guard.is_due:
            due.append(step)
        else:
            assert not guard.has_diverged()
    assert due == [20, 40, 60]
    assert guard.has_diverged()
    assert not DivergenceGuard().is_due


WAITING = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")


@pytest.fixture
def waits(monkeypatch) -> list[str]:
    """Every call so far that would wait for a device."""
    calls: list[str] = []
    for name in WAITING:
        original = getattr(Tensor, name)

        def counting(self, *arguments, _name=name, _original=original, **more):
            calls.append(_name)
            return _original(self, *arguments, **more)

        monkeypatch.setattr(Tensor, name, counting)
    return calls


def test_it_waits_for_the_device_once_in_twenty_steps(waits):
    guard = DivergenceGuard()
    for step in range(1, 201):
        guard.observe(torch.tensor(0.1), torch.tensor([1.0]))
        assert not guard.has_diverged()
        assert len(waits) == step // CHECK_STEPS


def test_it_does_not_wait_where_there_is_nothing_to_read(waits):
    assert observe(DivergenceGuard(), [(None, None)] * 100 + [(None, 1.0)] * 100) == []
    assert waits == []


def test_it_remembers_values_not_memory_and_no_graph():
    guard = begun()
    term, task_loss = torch.zeros((), requires_grad=True), torch.zeros(())
    for _ in range(20):
        with torch.no_grad():
            term.fill_(5.0)
            task_loss.fill_(3.0)
        guard.observe(term * 1, task_loss)
        with torch.no_grad():
            term.zero_()
            task_loss.zero_()
    assert guard.has_diverged()
    guard.observe(term, task_loss)
    assert all(not value.requires_grad for pair in guard._unread for value in pair)


@pytest.mark.parametrize("at", [0, 5, 50, 100, 107, 120, 140, 145])
def test_a_resumed_one_decides_as_if_it_had_not_stopped(at):
    rng = random.Random(1)
    good = [(None if step < 30 else rng.random(), 1 + rng.random()) for step in range(120)]
    steps = good + [(9.0, 8.0)] * 40 + [(0.1, None)] * 20 + [(math.nan, 1.0)] * 20

    def decisions(stops: bool) -> list[tuple[int, float]]:
        guard, made = DivergenceGuard(), []
        for step, (term, task_loss) in enumerate(steps):
            if stops and step == at:
                guard = DivergenceGuard.from_fields(Fields(guard.state_dict(), "guard"))
            guard.observe(None if term is None else torch.tensor(term, dtype=torch.float64), task_loss)
            if guard.has_diverged():
                guard.halve()
                made.append((step, guard.factor))
        return made

    assert decisions(stops=True) == decisions(stops=False) == [(139, 0.5), (159, 0.25), (199, 0.125)]


def test_its_state_is_numbers():
    guard = begun()
    observe(guard, [(0.5, 1.0), (0.5, None), (None, 1.0)])
    state = guard.state_dict()
    assert state == {
        "factor": 1.0,
        "steps": 103,
        "first_task_losses": [1.0] * 100,
        "terms": [0.5, 0.5],
        "task_losses": [1.0, None],
    }


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("factor", 2.0, "guard.factor must be between 0 and 1"),
        ("factor", None, "guard.factor must be between 0 and 1"),
        ("steps", -1, "guard.steps must be an integer"),
        ("terms", ["x"], "guard.terms must hold floats"),
        ("terms", [0.1] * 21, "guard.terms must have at most 20"),
        ("task_losses", [1.0], "guard.task_losses must have as many elements as guard.terms, 0, got 1"),
        ("first_task_losses", [None], "guard.first_task_losses must hold floats"),
        ("first_task_losses", 3, "guard.first_task_losses must be an array"),
    ],
)
def test_a_state_that_is_none_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        DivergenceGuard.from_fields(Fields({**DivergenceGuard().state_dict(), field: value}, "guard"))
    state = DivergenceGuard().state_dict()
    del state[field]
    with pytest.raises(ValueError, match=f"guard.{field} must be there"):
        DivergenceGuard.from_fields(Fields(state, "guard"))
