import importlib

import pytest

from codistill.errors import RecipeError
from codistill.lab import experiments, methods
from codistill.lab.experiments.base import Experiment


@pytest.fixture(params=experiments.names())
def experiment(request: pytest.FixtureRequest) -> Experiment:
    return experiments.experiment(request.param)


def test_every_claim_is_about_arms_that_are_trained(experiment: Experiment) -> None:
    labels = [arm.label for arm in experiment.arms]
    assert len(set(labels)) == len(labels)
    for claim in experiment.claims:
        assert {claim.arm, claim.against} <= set(labels)
        assert claim.name
        assert claim.expects is not None
        assert claim.margin is not None


def test_all_arms_are_tuned_on_seeds_of_their_own(experiment: Experiment) -> None:
    assert len(experiment.seeds) >= 3
    assert not set(experiment.seeds) & set(experiment.space.seeds)
    assert set(experiment.settings_of) <= {arm.label for arm in experiment.arms}
    assert set(experiment.settings_of.values()) <= {arm.label for arm in experiment.searched}


def test_every_arm_can_be_trained(experiment: Experiment) -> None:
    for arm in experiment.arms:
        assert methods.method(arm.method).plan(arm).peers[0] == "a"


def test_arms_that_are_held_against_each_other_make_as_many_updates(experiment: Experiment) -> None:
    updates = {arm.label: arm.updates for arm in experiment.arms}
    for claim in experiment.claims:
        assert updates[claim.arm] == updates[claim.against]


def test_what_differs_from_the_paper_is_said(experiment: Experiment) -> None:
    assert experiment.deviations
    assert experiment.says.endswith(".")
    assert experiment.regime.endswith(".")


def test_a_claim_finds_its_experiment_and_an_unknown_one_lists_them() -> None:
    assert experiments.experiment("s1") is experiments.experiment("S3")
    with pytest.raises(
        RecipeError, match="claim must be one of A5, A9, D1, S1-S3, S1-S3-KL, S10, S9, got 'Z1'"
    ):
        experiments.experiment("Z1")


def test_names_are_those_of_the_modules() -> None:
    for name in experiments.names():
        module = importlib.import_module(f"codistill.lab.experiments.{experiments._EXPERIMENTS[name]}")
        assert name == module.EXPERIMENT.name
