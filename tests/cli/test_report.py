import json

from codistill.cli import main
from codistill.lab import folder, recipes


def test_report_writes_the_page_and_prints_the_table(tmp_path, pretend_to_train, capsys):
    run = folder.create(tmp_path / "out", arms=[recipes.recipe("digits")], seeds=[0, 1], command=["x"])
    pretend_to_train(run)
    assert main(["report", str(run.path)]) == 0
    out, err = capsys.readouterr()
    assert "75.0 +- 0.0" in out
    assert out.endswith(f"Report: {run.path / 'report.html'}\n")
    assert err == ""
    assert (run.path / "report.html").read_text().startswith("<!doctype html>")


def test_report_of_another_folder_fails_in_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "run.json" in err


def test_report_of_damaged_results_names_the_file(tmp_path, pretend_to_train, capsys):
    run = folder.create(tmp_path / "out", arms=[recipes.recipe("digits")], seeds=[0], command=["x"])
    pretend_to_train(run)
    (run.peer_path("codistillation", 0, "b") / "result.json").write_text("{")
    assert main(["report", str(run.path)]) == 1
    assert "b/result.json must hold JSON" in capsys.readouterr().err


def test_report_as_json_is_the_comparison(tmp_path, pretend_to_train, capsys):
    run = folder.create(tmp_path / "out", arms=[recipes.recipe("digits")], seeds=[0], command=["x"])
    pretend_to_train(run)
    assert main(["report", str(run.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rows"][0]["test_accuracy"] == 0.75
    assert document["report"] == str(run.path / "report.html")


def test_report_of_a_folder_that_is_not_there_speaks_of_that_folder(in_tmp_path, capsys):
    assert main(["report", "nope"]) == 1
    assert capsys.readouterr().err == (
        "codistill: folder must be a results folder of codistill, got nope, which has no run.json. "
        "Name what codistill demo or codistill train left.\n"
    )
