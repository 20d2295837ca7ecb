import json
from pathlib import Path

import pytest
import torch

from codistill.cli import doctor, main
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.lives import claim_life, open_run
from codistill.exchange.checkpoint.publisher import Publisher
from codistill.snapshots.codec import encode
from codistill.snapshots.keys import status_key
from codistill.snapshots.signing import SigningKey
from codistill.snapshots.status import Status
from codistill.stores import DirectoryStore
from codistill.testing import FakeClock

SHARD = "shard-00001-of-00001.safetensors"


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(doctor, "time", clock)
    return clock


@pytest.fixture
def store(tmp_path):
    """A store in which peer a has published twice and was killed while it published once more."""
    store = DirectoryStore(tmp_path / "run")
    publish(store, "a", 1, 2)
    store.write(f"a/snapshots/0-2/{SHARD}", b"x" * 1000)
    return store


def publish(store, peer, *steps, signing_key=None):
    run_id, incarnation = open_run(store), claim_life(store, peer, after=None)
    status = Status(
        run_id=run_id,
        peer=peer,
        incarnation=incarnation,
        heartbeat=1,
        step=0,
        samples=0,
        task_loss=None,
        distillation_loss=None,
        state="running",
        reading={},
    )
    store.write(status_key(peer), status.to_json())
    life = Life(run_id=run_id, peer=peer, incarnation=incarnation, interval_steps=1, metadata={})
    publisher = Publisher(store, life, signing_key=signing_key)
    for step in steps:
        publisher.publish(encode({"weight": torch.ones(2)}), Progress(step=step), finished=False)


def files(store):
    return sorted(str(path) for path in Path(store.describe()).rglob("*") if path.is_file())


def test_a_run_that_is_well_is_exit_code_0(store_path, capsys):
    assert main(["doctor", str(store_path)]) == 0
    out = capsys.readouterr().out
    (line,) = (line.split() for line in out.splitlines() if line.startswith(" a "))
    assert line[:2] == ["a", "finished"]
    assert line[-1] == "0"
    assert "0 problems" in out


def test_without_prune_nothing_changes(store, capsys, clock):
    before = files(store)
    assert main(["doctor", store.describe()]) == 0
    out = capsys.readouterr().out
    assert "orphan a/snapshots/0-2: 1,000 bytes; it has no manifest." in out
    assert "0 problems" in out
    assert files(store) == before
    assert clock.sleeps == []


def test_prune_deletes_orphans_and_nothing_else(store, capsys, clock):
    before = files(store)
    assert main(["doctor", store.describe(), "--prune"]) == 0
    assert "deleted a/snapshots/0-2: 1,000 bytes" in capsys.readouterr().out
    assert set(before) - set(files(store)) == {f"{store.describe()}/a/snapshots/0-2/{SHARD}"}
    # It says that it is running, so it was watched for three heartbeats.
    assert clock.sleeps == [5.0] * 3


def test_prune_spares_and_says_why(store, capsys, clock):
    store.write("b/status.json", b"{}")
    before = files(store)
    assert main(["doctor", store.describe(), "--prune"]) == 1
    out = capsys.readouterr().out
    assert "spared a/snapshots/0-2: " in out
    assert "b/status.json" in out
    assert files(store) == before


def test_problems_are_exit_code_1_with_key_and_next_step(store, capsys):
    store.write(f"a/snapshots/0-1/{SHARD}", b"x")
    store.write("b/latest.json", b"{}")
    assert main(["doctor", store.describe()]) == 1
    lines = capsys.readouterr().out.splitlines()
    (shard,) = (line for line in lines if line.startswith(f"a/snapshots/0-1/{SHARD}: "))
    assert "another digest" in shard
    assert shard.endswith(
        "The peer's next snapshot replaces it; if the peer has ended, restore it from a copy."
    )
    assert any(line.startswith("b/latest.json: ") for line in lines)


def test_as_json(store, capsys, clock):
    publish(store, "b", 7)
    store.write(f"b/snapshots/0-0/{SHARD}", b"x")
    assert main(["doctor", store.describe(), "--prune", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    a, b = document["peers"]
    assert (a["peer"], a["state"], a["step"], a["lives"], a["snapshots"]) == ("a", "running", 2, 1, 2)
    assert (a["incarnation"], a["sequence"], a["orphan_bytes"]) == (0, 1, 1000)
    assert document["size_bytes"] == a["size_bytes"] + b["size_bytes"]
    (problem,) = document["problems"]
    assert (problem["peer"], problem["key"]) == ("b", f"b/snapshots/0-0/{SHARD}")
    assert problem["next_step"]
    orphan = {
        "peer": "a",
        "key": "a/snapshots/0-2",
        "values": [f"a/snapshots/0-2/{SHARD}"],
        "size_bytes": 1000,
        "why": "it has no manifest",
    }
    assert document["orphans"] == [orphan]
    assert document["pruned"] == {"deleted": [orphan], "spared": []}
    assert main(["doctor", store.describe(), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["orphans"], document["pruned"]) == ([], None)


def test_with_a_key_signatures_are_checked(tmp_path, capsys):
    key_file = tmp_path / "key"
    key_file.write_bytes(b"k" * 32)
    key_file.chmod(0o600)
    store = DirectoryStore(tmp_path / "run")
    publish(store, "a", 1, signing_key=SigningKey.from_file(key_file))
    assert main(["doctor", store.describe(), "--signing-key-file", str(key_file)]) == 0
    publish(store, "b", 1)
    assert main(["doctor", store.describe()]) == 0
    capsys.readouterr()
    assert main(["doctor", store.describe(), "--signing-key-file", str(key_file)]) == 1
    assert "b/latest.json" in capsys.readouterr().out
    assert main(["doctor", store.describe(), "--signing-key-file", str(tmp_path / "typo")]) == 1
    assert "signing_key_file must be a file" in capsys.readouterr().err


def test_a_damaged_run_document_is_one_of_the_problems(store, capsys):
    store.write("run.json", b"{")
    assert main(["doctor", store.describe(), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [problem["key"] for problem in document["problems"]] == ["run.json"]
    assert document["peers"][0]["step"] == 2
    # It may be anything else: nothing in it is deleted.
    before = files(store)
    assert main(["doctor", store.describe(), "--prune"]) == 1
    assert "spared a/snapshots/0-2: " in capsys.readouterr().out
    assert files(store) == before


def test_a_store_that_is_not_there_is_not_made(tmp_path, capsys):
    assert main(["doctor", str(tmp_path / "typo"), "--prune"]) == 1
    assert "must be a folder that is there" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_a_folder_that_is_no_run_is_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["doctor", str(tmp_path), "--prune"]) == 1
    assert "run.json" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
