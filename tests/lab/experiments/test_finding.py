from dataclasses import replace
from pathlib import Path

import pytest

from codistill.lab import experiments
from codistill.lab.experiments import finding as findings
from codistill.lab.experiments import page

ROOT = Path(__file__).parents[3]


def test_an_experiment_that_was_not_run_has_no_finding() -> None:
    assert findings.committed(replace(experiments.experiment("S3"), name="none")) is None


def test_of_runs_that_are_no_evidence_nothing_is_said_to_hold() -> None:
    experiment = experiments.experiment("S1")
    holds = [verdict.holds for verdict in findings.committed(experiment).comparison.verdicts]
    assert holds == ["no evidence: an arm diverged", "does not hold here", "does not hold here"]
    by_the_rule = findings.committed(replace(experiment, no_evidence=()))
    assert by_the_rule.comparison.verdicts[0].holds == "holds"
    for name in experiments.names():
        one = experiments.experiment(name)
        assert set(one.no_evidence) <= {claim.name for claim in one.claims}


@pytest.mark.parametrize("name", experiments.names())
def test_what_is_committed_is_of_the_experiment_as_it_was_declared(name: str) -> None:
    experiment, finding = experiments.experiment(name), findings.committed(experiments.experiment(name))
    assert finding is not None
    declared = [(c.name, c.arm, c.against, c.metric, c.expects, c.margin) for c in experiment.claims]
    judged = [(v.name, v.arm, v.against, v.metric, v.expects, v.margin) for v in finding.comparison.verdicts]
    assert judged == declared
    assert {verdict.seeds for verdict in finding.comparison.verdicts} == {len(experiment.seeds)}
    assert list(finding.settings) == [arm.label for arm in experiment.arms]
    assert tuple(finding.search["learning_rates"]) == experiment.space.learning_rates
    assert tuple(finding.search["weight_decays"]) == experiment.space.weight_decays
    assert {arm["trials"] for arm in finding.search["arms"]} == {experiment.space.trials}
    assert [arm["arm"] for arm in finding.search["arms"]] == [arm.label for arm in experiment.searched]
    assert finding.cpu_hours < 2


def test_the_page_and_its_figures_are_made_of_what_is_committed() -> None:
    assert (ROOT / "docs" / "reproduction.md").read_text() == page.page()
    drawn = page.figures()
    assert sorted(drawn) == sorted(path.name for path in (ROOT / "docs" / "figures").glob("*.svg"))
    for svg in drawn.values():
        assert svg.startswith("<svg")
