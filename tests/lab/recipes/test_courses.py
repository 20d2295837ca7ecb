"""Learning rate, weight decay and weight of the distillation where the papers have them."""

import pytest

from codistill.lab import course, methods, recipes
from codistill.lab.recipe import Recipe

EPOCH = 1_255_544 / 256
"""Updates of an epoch of a peer on ImageNet."""


def _just_before_and_after(recipe: Recipe, epochs: list[float], *, epoch: float = EPOCH) -> list[int]:
    """Return the updates on both sides of some epochs' ends, and the first and last of the run."""
    ends = [step for end in epochs for step in (round(end * epoch) - 2, round(end * epoch) + 2)]
    return [0, *ends, recipe.updates - 1]


def _twice(*values: float) -> list[float]:
    return [value for value in values for _ in range(2)]


def test_s1_halves_the_milestones_of_all_reduce_and_keeps_the_weight_decay() -> None:
    peer, whole = recipes.recipe("sodhani2020-s1-paper"), recipes.recipe("sodhani2020-s1-baseline-paper")
    assert peer.updates == whole.updates == int(45 * EPOCH)
    steps = _just_before_and_after(peer, [15, 30, 40])
    rates = course.learning_rate(peer, "a")
    assert [rates(step) for step in steps] == pytest.approx(_twice(0.1, 0.01, 0.001, 0.0001))
    assert course.learning_rate(whole, "a")(int(2.5 * EPOCH)) == pytest.approx(0.2)
    assert [course.learning_rate(whole, "a")(step) for step in steps[1:]] == pytest.approx(
        _twice(0.2, 0.02, 0.002, 0.0002)[1:]
    )
    assert {course.weight_decay(peer)(step) for step in steps} == {1e-4}


@pytest.mark.parametrize("scale", ["paper", "lab"])
def test_s3_drops_later_and_lets_the_weight_decay_fall_to_0(scale: str) -> None:
    recipe = recipes.recipe(f"sodhani2020-s3-{scale}")
    epoch = recipe.updates / 45
    steps = _just_before_and_after(recipe, [18, 38, 44], epoch=epoch)
    assert [course.weight_decay(recipe)(step) for step in steps] == _twice(1e-4, 1e-5, 0, 0)
    weights = course.distillation_weight(recipe, epoch_steps=round(epoch))
    assert [weights(step) for step in steps] == _twice(1, 1.5, 2, 2.5)
    rates = course.learning_rate(recipe, "a")
    assert [rates(step) for step in steps] == pytest.approx(_twice(0.1, 0.01, 0.001, 0.0001))


def test_s4_is_s3_but_for_the_weight_decay() -> None:
    s3, s4 = recipes.recipe("sodhani2020-s3-paper"), recipes.recipe("sodhani2020-s4-paper")
    assert s4.learning_rate_drops == s3.learning_rate_drops
    assert (s4.weight_decays, s3.weight_decays) == ((), (1e-5, 0.0, 0.0))


def test_the_control_has_the_weight_decay_of_s3_at_the_same_updates() -> None:
    s3, control = recipes.recipe("sodhani2020-s3-paper"), recipes.recipe("sodhani2020-s3-control-paper")
    assert control.method == "all_reduce"
    assert control.learning_rate_drops == pytest.approx(s3.learning_rate_drops)
    assert (control.updates, control.batch_size) == (s3.updates, s3.batch_size)
    steps = range(0, s3.updates, 1000)
    assert [course.weight_decay(control)(step) for step in steps] == [
        course.weight_decay(s3)(step) for step in steps
    ]


@pytest.mark.parametrize(
    "name", ["sodhani2020-s1", "sodhani2020-s9", "sodhani2020-s11", "sc20-imagenet", "anil2018-a8"]
)
@pytest.mark.parametrize("scale", ["paper", "lab"])
def test_both_arms_cost_the_same_samples_updates_and_ranks(name: str, scale: str) -> None:
    arms = [recipes.recipe(f"{name}-{scale}"), recipes.recipe(f"{name}-baseline-{scale}")]
    plans = [methods.method(arm.method).plan(arm) for arm in arms]
    ranks = [plan.ranks * len(plan.peers) for plan in plans]
    assert ranks[0] == ranks[1]
    assert [plan.batch_size for plan in plans] == [arms[0].batch_size // ranks[0]] * 2
    assert arms[0].updates == arms[1].updates


def test_s3_is_trained_on_16_gpus_of_32_images() -> None:
    plan = methods.method("codistillation").plan(recipes.recipe("sodhani2020-s3-paper"))
    assert (plan.peers, plan.ranks, plan.batch_size) == (("a", "b"), 8, 32)


def test_s7_doubles_the_batch_and_learning_rate_and_halves_the_updates() -> None:
    points = recipes.entry("sodhani2020-s7-paper").points()
    assert [point.batch_size // 2 for point in points] == [128, 256, 512, 1024, 2048]
    assert [point.learning_rate for point in points] == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8])
    for point in points:
        assert point.updates * point.batch_size // 2 == pytest.approx(45 * 1_255_544, rel=1e-3)
        assert point.warmup_steps / point.updates == pytest.approx(2.5 / 45, rel=1e-2)


def test_the_weight_grows_by_a_tenth_an_epoch_without_end_where_s9_translates() -> None:
    recipe = recipes.recipe("sodhani2020-s9-paper")
    weights = course.distillation_weight(recipe, epoch_steps=1000)
    assert [weights(step) for step in (0, 999, 1000, 5000)] == pytest.approx([1, 1, 1.1, 1.1**5])
    assert recipe.distillation_weight_maximum is None
    assert recipe.label_smoothing == 0
    assert recipes.recipe("sodhani2020-s9-baseline-paper").label_smoothing == 0.1
    rates = course.learning_rate(recipe, "a")
    assert rates(15_999) == pytest.approx(rates(3999) / 2)


def test_d1_drops_every_60_of_200_epochs() -> None:
    recipe = recipes.recipe("zhang2018-d1-paper")
    steps = _just_before_and_after(recipe, [60, 120, 180], epoch=45_000 / 64)
    rates = course.learning_rate(recipe, "a")
    assert [rates(step) for step in steps] == pytest.approx(_twice(0.1, 0.01, 0.001, 0.0001))
    assert (recipe.distillation_loss, recipe.distillation_weight, recipe.combine) == ("kl", 1, "losses")


@pytest.mark.parametrize("name", ["sc20-imagenet-paper", "sc20-imagenet-lab", "sc20-tiny-lab"])
def test_sc20_burns_in_for_two_fifths_and_seeks_one_mode(name: str) -> None:
    recipe = recipes.recipe(name)
    assert recipe.burn_in_steps == pytest.approx(0.4 * recipe.updates, abs=1)
    assert recipe.distillation_loss == "reverse_kl"
    assert recipe.label_smoothing == (0 if "tiny" in name else 0.1)


@pytest.mark.parametrize("entry", recipes.entries(), ids=lambda entry: entry.recipe.name)
def test_divergences_are_the_papers(entry) -> None:
    loss, paper = entry.recipe.distillation_loss, entry.paper.partition(" et al.")[0]
    if entry.recipe.task in ("criteo", "adult", "diabetes130"):
        assert loss == "bernoulli_kl"
    else:
        expected = {"Anil": "soft_cross_entropy", "Sodhani": "logit_mse", "Murai": "reverse_kl"}
        assert loss == expected.get(paper, "kl")
