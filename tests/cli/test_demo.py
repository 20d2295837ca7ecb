import json

import pytest

from codistill.cli import demo as demo_verb
from codistill.cli import main
from codistill.lab.folder import RunFolder
from codistill.lab.recipes import demo


@pytest.fixture
def trained(monkeypatch, pretend_to_train):
    """Let the demo train nothing, and note what it was asked for."""
    folders = []

    def train(folder, *, on_progress):
        folders.append(folder)
        pretend_to_train(folder)
        for arm in folder.arms:
            on_progress(arm.label, 50, 100)
            on_progress(arm.label, 100, 100)

    monkeypatch.setattr(demo_verb, "train_demo", train)
    monkeypatch.setattr(demo_verb, "arms", lambda: demo.ARMS)
    monkeypatch.setattr(demo, "grid", lambda: {"arms": []})
    return folders


def test_demo_trains_every_arm_with_every_seed_and_reports(in_tmp_path, trained, capsys):
    assert main(["demo", "--seeds", "2"]) == 0
    out, err = capsys.readouterr()
    (folder,) = trained
    assert [arm.label for arm in folder.arms] == [arm.label for arm in demo.ARMS]
    assert folder.seeds == (0, 1)
    assert folder.document["command"] == ["codistill", "demo", "--seeds", "2"]
    for arm in demo.ARMS:
        assert arm.label in out
        assert arm.label in err
    assert "no difference at 95%" in out
    assert out.endswith("Report: runs/demo/report.html\n")
    assert (in_tmp_path / "runs" / "demo" / "report.html").exists()


def test_demo_has_five_seeds_by_default(in_tmp_path, trained):
    assert main(["demo"]) == 0
    assert trained[0].seeds == (0, 1, 2, 3, 4)


def test_demo_as_json_prints_only_that(in_tmp_path, trained, capsys):
    assert main(["demo", "--json", "--seeds", "2", "--out", "there"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "codistill comparison"
    assert document["report"] == "there/report.html"


def test_demo_refuses_an_earlier_run_unless_told(in_tmp_path, trained, capsys):
    assert main(["demo", "--seeds", "1"]) == 0
    capsys.readouterr()
    assert main(["demo", "--seeds", "1"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "--resume" in err
    assert "--overwrite" in err
    assert main(["demo", "--seeds", "2", "--resume"]) == 0
    assert RunFolder("runs/demo").seeds == (0, 1)
    assert main(["demo", "--seeds", "1", "--overwrite"]) == 0
    assert RunFolder("runs/demo").seeds == (0,)
    assert len(trained) == 3


@pytest.mark.parametrize(
    "words", [["--overwrite", "--resume"], ["--seeds", "0"], ["--seeds", "two"], ["extra"]]
)
def test_wrong_usage_makes_no_folder(in_tmp_path, trained, capsys, words):
    assert main(["demo", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err != ""
    assert trained == []
    assert list(in_tmp_path.iterdir()) == []
