import json
import math

import pytest
import torch

from codistill.cli import main
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.lives import open_run
from codistill.exchange.checkpoint.publisher import Publisher
from codistill.snapshots.codec import encode
from codistill.snapshots.keys import status_key
from codistill.snapshots.status import Status
from codistill.stores import DirectoryStore


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path / "run")


def publish(store, peer, *losses, incarnation=0):
    """Let ``peer`` publish a snapshot with each task loss."""
    life = Life(run_id=open_run(store), peer=peer, incarnation=incarnation, interval_steps=1, metadata={})
    publisher = Publisher(store, life)
    for step, loss in enumerate(losses, start=1):
        weights = encode({"weight": torch.ones(2)})
        publisher.publish(weights, Progress(step=step, samples=8 * step, task_loss=loss), finished=False)


def tell(store, peer, reading, *, state="running"):
    status = Status(
        run_id=open_run(store),
        peer=peer,
        incarnation=0,
        heartbeat=1,
        step=0,
        samples=0,
        task_loss=None,
        distillation_loss=None,
        state=state,
        reading=reading,
    )
    store.write(status_key(peer), status.to_json())


def peers(store, capsys, *words):
    assert main(["peers", store.describe(), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


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
    assert "must be a folder that is there" in capsys.readouterr().err
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


def test_a_store_of_a_kind_that_there_is_not_is_refused_without_a_word_of_its_credentials(capsys):
    assert main(["peers", "gopher://user:secret@host/run"]) == 1
    err = capsys.readouterr().err
    assert "got a 'gopher://' URL" in err
    assert "secret" not in err


def test_a_damaged_status_does_not_hide_the_snapshot(store_path, capsys):
    (store_path / "a" / "status.json").write_text("{}")
    assert main(["peers", str(store_path), "--json"]) == 0
    (a,) = json.loads(capsys.readouterr().out)
    assert (a["step"], a["task_loss"], a["state"]) == (2, 0.5, None)
    assert "a/status.json" in a["problem"]


def test_age_is_how_far_behind_the_furthest_running_reader_is(store, capsys):
    publish(store, "a", 1.0, 0.9, 0.8, 0.7)
    tell(store, "a", {})
    assert peers(store, capsys)[0]["age_snapshots"] is None
    tell(store, "b", {"a": (0, 3)})
    assert peers(store, capsys)[0]["age_snapshots"] == 0
    tell(store, "c", {"a": (0, 1)})
    assert peers(store, capsys)[0]["age_snapshots"] == 2
    tell(store, "c", {"a": (0, 1)}, state="left")
    assert peers(store, capsys)[0]["age_snapshots"] == 0
    # It has read what was published after the peers were looked at.
    tell(store, "b", {"a": (0, 5)})
    assert peers(store, capsys)[0]["age_snapshots"] == 0
    publish(store, "a", 0.6, 0.5, incarnation=1)
    assert peers(store, capsys)[0]["age_snapshots"] == 2


def test_every_column_is_there(store, capsys):
    publish(store, "a", 1.0, 0.9)
    tell(store, "a", {})
    tell(store, "b", {"a": (0, 0)})
    assert main(["peers", store.describe()]) == 0
    lines = capsys.readouterr().out.splitlines()
    (a,) = (line.split() for line in lines if line.startswith(" a "))
    size = peers(store, capsys)[0]["size_bytes"]
    assert a == ["a", "0", "1", "2", "16", "1", str(size), "0.9000", "running"]


def test_best_is_the_lowest_task_loss_of_the_newest_snapshots_that_can_be_read(store, capsys):
    publish(store, "a", 0.1, 0.5)
    publish(store, "b", 0.4)
    publish(store, "c", 0.4)
    publish(store, "d", math.nan)
    publish(store, "e", None)
    publish(store, "f", 0.2)
    store.write("f/latest.json", b"{}")
    publish(store, "g", 0.3)
    store.delete("g/snapshots/0-0/manifest.json")
    tell(store, "h", {})
    (best,) = peers(store, capsys, "--best")
    assert (best["peer"], best["task_loss"]) == ("b", 0.4)
    assert main(["peers", store.describe(), "--best"]) == 0
    out = capsys.readouterr().out
    assert "0.4000" in out
    assert not any(line.startswith((" a ", " c ")) for line in out.splitlines())


def test_best_of_nobody_is_an_error_that_says_what_to_do(store, capsys):
    publish(store, "a", None)
    assert main(["peers", store.describe(), "--best", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "No peer" in err
    assert "task_loss" in err
