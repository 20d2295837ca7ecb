from dataclasses import replace

import pytest

from codistill.lab.compare import compare
from codistill.lab.folder import RunFolder
from codistill.lab.report.fairness import describe_budget


def test_what_a_comparison_fixed_is_said_in_its_own_words(experiment_folder):
    run = RunFolder(experiment_folder)
    assert describe_budget(run.path, run.arms, compare(run)) == "All arms were given the same updates."


def test_without_that_it_is_said_what_is_equal_and_what_is_not(experiment_folder):
    (experiment_folder / "budget.json").unlink()
    run = RunFolder(experiment_folder)
    assert describe_budget(run.path, run.arms, compare(run)) == (
        "Every model makes 300 updates. Not equal between arms: compute, from 1.00 (all_reduce) to 3.33 "
        "(two_phase); bytes an update, from 0 B (ensemble) to 80.0 kB (codistillation-1); samples over all "
        "models, from 9,600 (all_reduce) to 28,800 (two_phase)."
    )
    arms = [replace(run.arms[0], updates=1200), *run.arms[1:]]
    assert describe_budget(run.path, arms, compare(run)).startswith("Models make from 300 to 1,200 updates.")


def test_a_malformed_budget_is_refused(experiment_folder):
    (experiment_folder / "budget.json").write_text("{}")
    run = RunFolder(experiment_folder)
    with pytest.raises(ValueError, match=r"budget\.json must say what the budget is in 'says'"):
        describe_budget(run.path, run.arms, compare(run))
