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
