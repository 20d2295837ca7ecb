from dataclasses import replace

import pytest

from codistill.errors import RecipeError
from codistill.lab import course
from codistill.lab.recipe import Recipe


@pytest.fixture
def recipe(tiny: Recipe) -> Recipe:
    return replace(tiny, updates=100, learning_rate=0.4, learning_rate_drops=(0.5, 0.75), weight_decay=1e-4)


def test_the_learning_rate_falls_at_the_drops(recipe: Recipe) -> None:
    rate = course.learning_rate(recipe, "a")
    assert [rate(step) for step in (0, 49, 50, 74, 75, 99)] == pytest.approx(
        [0.4, 0.4, 0.04, 0.04, 4e-3, 4e-3]
    )


def test_a_warm_up_rises_in_a_straight_line_and_ends_at_the_learning_rate(recipe: Recipe) -> None:
    rate = course.learning_rate(replace(recipe, warmup_steps=10, warmup_from=0.25), "a")
    assert [rate(step) for step in (0, 4, 9, 10, 49)] == pytest.approx([0.13, 0.25, 0.4, 0.4, 0.4])


@pytest.mark.parametrize(("name", "middle"), [("cosine", 0.2), ("linear", 0.2)])
def test_curves_end_at_zero(recipe: Recipe, name: str, middle: float) -> None:
    rate = course.learning_rate(replace(recipe, learning_rate_course=name), "a")
    assert rate(0) == pytest.approx(0.4)
    assert rate(50) == pytest.approx(middle)
    assert rate(100) == pytest.approx(0.0)


def test_the_inverse_square_root_is_flat_to_the_end_of_the_warm_up(recipe: Recipe) -> None:
    rate = course.learning_rate(
        replace(recipe, learning_rate_course="inverse_square_root", warmup_steps=16), "a"
    )
    assert [rate(step) for step in (7, 15, 63)] == pytest.approx([0.2, 0.4, 0.2])


def test_without_a_course_it_is_constant(recipe: Recipe) -> None:
    rate = course.learning_rate(replace(recipe, learning_rate_course="constant"), "a")
    assert {rate(step) for step in range(100)} == {0.4}


def test_each_peer_may_have_its_own(recipe: Recipe) -> None:
    own = replace(recipe, peer_learning_rates=(0.1, 0.2))
    assert [course.learning_rate(own, peer)(0) for peer in "ab"] == [0.1, 0.2]


def test_weight_decay_follows_a_factor_or_a_list(recipe: Recipe) -> None:
    by_factor = course.weight_decay(replace(recipe, weight_decay_factor=0.1))
    assert [by_factor(step) for step in (49, 50, 75)] == pytest.approx([1e-4, 1e-5, 1e-6])
    # Sodhani et al. 2020, section 3.2.
    listed = course.weight_decay(replace(recipe, weight_decays=(1e-5, 0.0)))
    assert [listed(step) for step in (49, 50, 75)] == [1e-4, 1e-5, 0.0]


def test_the_weight_of_the_distillation_loss_grows_at_drops_or_each_epoch(recipe: Recipe) -> None:
    constant = course.distillation_weight(recipe, epoch_steps=7)
    assert [constant(step) for step in (0, 99)] == [1.0, 1.0]
    # Sodhani et al. 2020, A.1.
    added = course.distillation_weight(replace(recipe, distillation_weight_added=0.5), epoch_steps=7)
    assert [added(step) for step in (0, 50, 75)] == [1.0, 1.5, 2.0]
    # A.3.
    grown = course.distillation_weight(replace(recipe, distillation_weight_factor=1.1), epoch_steps=7)
    assert [grown(step) for step in (6, 7, 14)] == pytest.approx([1.0, 1.1, 1.21])
    for changes in ({"distillation_weight_added": 0.5}, {"distillation_weight_factor": 1.1}):
        bounded = replace(recipe, **changes, distillation_weight_maximum=1.2)
        assert course.distillation_weight(bounded, epoch_steps=7)(99) == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_decays": (1e-5,)}, "weight_decays must have one value for each of 2 drops"),
        ({"weight_decay": 0.0, "weight_decays": (1e-5, 0.0)}, "weight_decays must be left out"),
        ({"warmup_steps": 101}, "warmup_steps must be <= 100, the updates, got 101"),
        (
            {"distillation_weight_added": 0.5, "distillation_weight_factor": 1.1},
            "distillation_weight_added must be 0 where",
        ),
    ],
)
def test_courses_that_contradict_themselves_are_refused(
    recipe: Recipe, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(recipe, **changes)
