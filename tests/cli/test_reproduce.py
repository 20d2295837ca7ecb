import json

import pytest

from codistill.cli.entry import main
from codistill.lab.experiments import finding as findings


def test_experiments_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce"]) == 0
    out = capsys.readouterr().out
    assert "S1-S3" in out
    assert "diabetes130" in out
    assert "no evidence" in out
    assert "codistill reproduce S1-S3-KL" in out


def test_a_claim_shows_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "S3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Claimed: Out of the box")
    assert "less_regularised" in out
    assert "CPU-hours" in out
    assert main(["reproduce", "S3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["experiment"] == "S1-S3"


def test_an_unknown_claim_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "Z1"]) == 2
    assert "claim must be one of" in capsys.readouterr().err


def test_what_was_not_run_can_be_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "committed", lambda name: None)
    assert main(["reproduce", "S3"]) == 1
    assert "Pass --anew to run it here" in capsys.readouterr().err
