import json

from codistill.cli import main


def test_peers_shows_what_the_newest_snapshot_says(store_path, capsys):
    assert main(["peers", str(store_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line.split() for line in lines if line.startswith(" a "))
    assert line[0] == "a"
    assert line[3:5] == ["2", "8"]
    assert line[-2:] == ["0.5000", "finished"]


def test_peers_as_json(store_path, capsys):
    assert main(["peers", str(store_path), "--json"]) == 0
    (peer,) = json.loads(capsys.readouterr().out)
    assert (peer["peer"], peer["incarnation"], peer["step"], peer["samples"]) == ("a", 0, 2, 8)
    assert (peer["task_loss"], peer["state"], peer["problem"]) == (0.5, "finished", None)
    # 9 weights, stored once, and 3 biases of 4 bytes, and an integer of 8.
    assert peer["size_bytes"] >= 9 * 4 + 3 * 4 + 8


def test_a_damaged_peer_does_not_hide_the_others(store_path, capsys):
    (store_path / "b").mkdir()
    (store_path / "b" / "latest.json").write_text("{}")
    (store_path / "c").mkdir()
    assert main(["peers", str(store_path), "--json"]) == 0
    a, b, c = json.loads(capsys.readouterr().out)
    assert (a["problem"], a["step"]) == (None, 2)
    assert "b/latest.json" in b["problem"]
    assert {value for name, value in c.items() if name != "peer"} == {None}
    assert main(["peers", str(store_path)]) == 0
    out = capsys.readouterr().out
    assert "unreadable" in out
    assert "\nb: " in out


def test_a_store_that_is_not_there_is_not_made(tmp_path, capsys):
    assert main(["peers", str(tmp_path / "typo")]) == 1
    assert "store must be a folder that peers publish in" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_a_results_folder_is_no_store(tmp_path, capsys):
    (tmp_path / "run.json").write_text('{"format": 1, "kind": "codistill results"}')
    assert main(["peers", str(tmp_path)]) == 1
    assert "run.json" in capsys.readouterr().err


def test_a_store_may_be_a_file_url(store_path, capsys):
    assert main(["peers", store_path.as_uri(), "--json"]) == 0
    assert [peer["peer"] for peer in json.loads(capsys.readouterr().out)] == ["a"]
    assert main(["peers", store_path.parent.as_uri()]) == 1
    assert "which has no run.json" in capsys.readouterr().err
    assert main(["peers", "s3://user:secret@bucket/run"]) == 1
    err = capsys.readouterr().err
    assert "store must be a path or a Store" in err
    assert "secret" not in err
