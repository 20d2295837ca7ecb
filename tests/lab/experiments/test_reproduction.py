import json
from dataclasses import replace
from pathlib import Path

import pytest

from codistill.lab import claims
from codistill.lab.claims import Claim
from codistill.lab.experiments import finding as findings
from codistill.lab.experiments.base import Experiment
from codistill.lab.experiments.page import describe, describe_finding
from codistill.lab.experiments.reproduction import reproduce
from codistill.lab.launch import LaunchOptions
from codistill.lab.recipe import Recipe
from codistill.lab.search_space import SearchSpace

OPTIONS = LaunchOptions(device="cpu")


@pytest.fixture
def experiment(tiny: Recipe) -> Experiment:
    plain = replace(tiny, arm="plain", method="alone", peers=1, updates=10, batch_size=8, evaluate_every=10)
    pair = replace(tiny, arm="pair", updates=10, evaluate_every=10)
    return Experiment(
        name="T1",
        paper="nobody, nowhere",
        says="Two are better than one.",
        regime="Hardly any training.",
        arms=(plain, pair, replace(pair, arm="pair_as_plain")),
        space=SearchSpace(learning_rates=(0.1, 1e-4), weight_decays=(0.0,), seeds=(100,)),
        settings_of={"pair_as_plain": "plain"},
        claims=(
            Claim(
                name="T1",
                arm="pair",
                against="plain",
                metric="test_accuracy",
                says="two are better",
                expects="ahead",
                margin=1.0,
            ),
        ),
        deviations=("everything",),
        seeds=(0, 1),
    )


def test_an_experiment_is_tuned_trained_and_judged_and_goes_on_where_it_stopped(
    experiment: Experiment, tmp_path: Path, trained_here: list[str]
) -> None:
    runs = reproduce(experiment, out=tmp_path / "out", options=OPTIONS)
    record = json.loads((runs.path / "search.json").read_text())
    plain, pair = (arm["chosen"]["learning_rate"] for arm in record["arms"])
    assert [arm.learning_rate for arm in runs.arms] == [plain, pair, plain]
    assert claims.read_claims(runs.path) == experiment.claims
    # Two points of two arms; three arms with two seeds.
    assert len(trained_here) == 2 * 2 + 3 * 2
    (runs.peer_path("plain", 1, "a") / "result.json").unlink()
    trained_here.clear()
    reproduce(experiment, out=tmp_path / "out", options=OPTIONS)
    assert trained_here == ["plain"]

    finding = findings.find(experiment, tmp_path / "out")
    (verdict,) = finding.comparison.verdicts
    assert (verdict.name, verdict.seeds) == ("T1", 2)
    assert verdict.holds in ("holds", "does not hold here", "too noisy to tell")
    assert finding.settings["pair_as_plain"] == {"learning_rate": plain, "weight_decay": 0.0}
    assert finding.cpu_hours > 0
    document = findings.to_document(finding, name="T1")
    assert json.loads(json.dumps(document)) == document
    assert f"pair: {pair:g}, 0" in describe_finding(finding)
    assert "plain, pair" in describe_finding(finding)
    assert describe(experiment)[0] == "Claimed: Two are better than one. (nobody, nowhere)"
