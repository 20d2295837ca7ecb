from dataclasses import replace

import pytest

from codistill.lab import folder
from codistill.lab.claims import Claim, write_claims
from codistill.lab.declared import declared_claims, default_claims, judged_by
from codistill.lab.recipe import Recipe
from codistill.lab.recipes import demo
from codistill.lab.recipes.demo_claims import DEMO_CLAIMS

PLAIN = Recipe(name="test", task="digits", method="all_reduce", peers=1)
TAUGHT = replace(PLAIN, method="codistillation", peers=2)


@pytest.fixture
def make_folder(tmp_path):
    return lambda *arms: folder.create(tmp_path / "out", arms=arms, seeds=[0], command=["test"])


def test_arms_are_judged_by_the_metric_of_their_task():
    assert judged_by([PLAIN]) == "accuracy"
    assert judged_by([replace(PLAIN, task="adult")]) == "nll"


def test_results_of_a_task_whose_file_is_gone_are_judged_by_accuracy():
    assert judged_by([replace(PLAIN, task="gone.py:Gone")]) == "accuracy"


def test_every_arm_is_held_against_the_first_on_the_metric_of_the_task_and_on_churn(make_folder):
    arms = [replace(arm, task="adult") for arm in (PLAIN, TAUGHT, replace(TAUGHT, arm="other"))]
    claims = default_claims(make_folder(*arms))
    assert [(claim.arm, claim.against, claim.metric) for claim in claims] == [
        ("codistillation", "all_reduce", "test_nll"),
        ("other", "all_reduce", "test_nll"),
        ("codistillation", "all_reduce", "churn"),
        ("other", "all_reduce", "churn"),
    ]
    assert all(claim.expects is None for claim in claims)


def test_one_arm_is_held_against_nothing(make_folder):
    assert declared_claims(make_folder(PLAIN)) == ()


def test_what_was_written_comes_before_the_demo_and_the_demo_before_the_rest(make_folder):
    run = make_folder(*demo.ARMS)
    assert declared_claims(run) == DEMO_CLAIMS
    own = Claim(arm="codistillation_2", against="all_reduce", metric="churn", says="why")
    write_claims(run.path, [own])
    assert declared_claims(run) == (own,)
    write_claims(run.path, [])
    assert declared_claims(run) == ()


def test_arms_that_are_not_the_demo_s_are_held_against_the_first(make_folder):
    run = make_folder(PLAIN, TAUGHT)
    assert declared_claims(run) == default_claims(run)
