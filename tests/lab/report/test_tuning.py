import json

import pytest

from codistill.lab.folder import RunFolder
from codistill.lab.recipes import demo
from codistill.lab.report.tuning import describe_tuning, tuning_of


def test_settings_chosen_otherwise_are_not_said_to_be_tuned(results_folder):
    arms = RunFolder(results_folder).arms
    assert describe_tuning(arms) is not None
    assert describe_tuning(demo.ARMS[:1], {"arms": []}) is None


def test_the_demo_needs_no_record_of_a_search(results_folder):
    tuning = tuning_of(results_folder, RunFolder(results_folder).arms)
    assert tuning is not None
    assert tuning.says.startswith("Learning rate and weight decay were chosen by one grid")
    assert tuning.rows == ()


def test_a_record_of_a_search_becomes_a_paragraph_and_a_table(experiment_folder):
    tuning = tuning_of(experiment_folder, RunFolder(experiment_folder).arms)
    assert tuning is not None
    assert "learning rates 0.03, 0.1, 0.3; weight decays 0, 0.001; 2 seeds." in tuning.says
    assert "Rule: lowest validation NLL" in tuning.says
    assert "Not tuned themselves: two_phase-teachers." in tuning.says
    assert "Chosen at the edge of the grid: ensemble." in tuning.says
    assert tuning.fields == ("learning rate", "weight decay")
    assert tuning.rows[0] == ("all_reduce", "0.1", "0.001", "12", "-")
    assert ("ensemble", "0.1", "0.001", "12", "weight decay") in tuning.rows


def test_nothing_is_said_of_a_search_that_nobody_recorded(experiment_folder):
    (experiment_folder / "search.json").unlink()
    assert tuning_of(experiment_folder, RunFolder(experiment_folder).arms) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "must hold a JSON object, got list"),
        ({"seeds": 3}, "must list seeds, got 3"),
        ({"arms": [{"arm": "x"}]}, "must list arms, each with what was chosen"),
    ],
)
def test_a_malformed_record_of_a_search_is_refused_by_field(experiment_folder, change, message):
    path = experiment_folder / "search.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, **change} if isinstance(change, dict) else change))
    with pytest.raises(ValueError, match=rf"search\.json {message}"):
        tuning_of(experiment_folder, RunFolder(experiment_folder).arms)
