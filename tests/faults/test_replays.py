import hashlib
import json
import shutil

import pytest
from torch import nn

from codistill.exchange.checkpoint.publisher import SnapshotOptions


@pytest.fixture
def options(request, tmp_path):
    """How peers are told of the signing key; none where the test has none."""
    if not getattr(request, "param", False):
        return {}
    return {"snapshots": SnapshotOptions(signing_key_file=write_key(tmp_path / "key", "k"))}


def write_key(path, character):
    path.write_text(character * 64)
    path.chmod(0o600)
    return path


def pointer_of(key, manifest, *, peer="a"):
    """Return a pointer that somebody without the signing key makes for a manifest."""
    body = json.loads(json.loads(manifest)["body"]) if b'"body"' in manifest else json.loads(manifest)
    incarnation, sequence = map(int, key.split("/")[2].split("-"))
    reference = {"key": key, "size": len(manifest), "sha256": hashlib.sha256(manifest).hexdigest()}
    text = json.dumps(
        {
            "format": 1,
            "run_id": body["run_id"],
            "peer": peer,
            "incarnation": incarnation,
            "sequence": sequence,
            "manifest": reference,
        }
    )
    return json.dumps({"body": text, "mac": None}).encode()


both_ways = pytest.mark.parametrize("options", [False, True], indirect=True, ids=["unsigned", "signed"])


@both_ways
def test_a_replayed_pointer_never_takes_a_reader_back(tmp_path, join, options):
    run = tmp_path / "run"
    publisher, reader = join(run, "a", value=1.0, **options), join(run, "b", **options)
    publisher.step()
    old = tmp_path / "old"
    shutil.copytree(run / "a", old)
    for value in (2.0, 3.0, 4.0):
        publisher.become(value)
        publisher.step()
    reader.step()
    assert reader.value_of("a") == 4.0
    # Everything as it was, the snapshot too, which has been deleted since.
    shutil.copytree(old, run / "a", dirs_exist_ok=True)
    assert reader.say(3) == []
    assert reader.value_of("a") == 4.0
    # Nor does a reader that has stopped meanwhile, and has its state.
    reader.close(publish=False)
    resumed = join(run, "b", state=reader.codistiller.state_dict(), **options)
    resumed.say(3)
    assert resumed.value_of("a") == 4.0
    publisher.become(5.0)
    publisher.step()
    resumed.step()
    assert resumed.value_of("a") == 5.0


@both_ways
def test_what_was_published_before_a_snapshot_that_was_refused_is_not_taken_either(tmp_path, join, options):
    run = tmp_path / "run"
    publisher, reader = join(run, "a", value=1.0, **options), join(run, "b", **options)
    publisher.step()
    reader.step()
    publisher.become(2.0)
    publisher.step()
    skipped = (run / "a" / "latest.json").read_bytes()
    publisher.become(3.0)
    publisher.step()
    (run / "a" / "snapshots" / "0-2" / "shard-00001-of-00001.safetensors").write_bytes(b"")
    assert len(reader.say()) == 1
    # Newer than what the reader holds, older than what it has seen.
    (run / "a" / "latest.json").write_bytes(skipped)
    assert reader.say(2) == []
    assert reader.value_of("a") == 1.0
    reader.close(publish=False)
    resumed = join(run, "b", state=reader.codistiller.state_dict(), **options)
    assert resumed.say(2) == []
    assert resumed.value_of("a") == 1.0


@both_ways
def test_a_manifest_under_the_name_of_another_peer_is_refused(tmp_path, join, options):
    run = tmp_path / "run"
    students = [join(run, peer, topology="all", **options) for peer in "abc"]
    for _ in range(2):
        for student in students:
            student.step()
    reader = students[2]
    held = reader.value_of("a")
    # What b has published, where a's would be.
    shutil.copytree(run / "b" / "snapshots" / "0-1", run / "a" / "snapshots" / "0-9")
    manifest = (run / "a" / "snapshots" / "0-9" / "manifest.json").read_bytes()
    (run / "a" / "latest.json").write_bytes(pointer_of("a/snapshots/0-9/manifest.json", manifest))
    (said,) = [message for message in reader.say(2) if "'a'" in message]
    assert ("is not signed" if options else "a/snapshots/0-9/manifest.json") in said
    assert reader.value_of("a") == held


@both_ways
def test_a_manifest_that_was_moved_under_the_pointer_is_refused(tmp_path, join, options):
    run = tmp_path / "run"
    publisher, reader = join(run, "a", value=1.0, **options), join(run, "b", **options)
    publisher.step()
    reader.step()
    publisher.become(2.0)
    publisher.step()
    shutil.copytree(run / "a" / "snapshots" / "0-0", run / "a" / "snapshots" / "0-1", dirs_exist_ok=True)
    (said,) = reader.say(3)
    assert "a/snapshots/0-1/manifest.json" in said
    assert "digest differs" in said
    assert reader.value_of("a") == 1.0


@both_ways
def test_snapshots_of_another_run_are_refused(tmp_path, join, options):
    here, there = tmp_path / "here", tmp_path / "there"
    publisher, reader = join(here, "a", value=1.0, **options), join(here, "b", **options)
    publisher.step()
    reader.step()
    stranger = join(there, "a", value=9.0, **options)
    stranger.step(4)
    shutil.copytree(there / "a", here / "a", dirs_exist_ok=True)
    (said,) = reader.say(3)
    assert "must be of run" in said
    assert "peer 'a'" in said
    assert "a/latest.json" in said
    assert reader.value_of("a") == 1.0


def test_without_the_key_nothing_is_accepted_and_with_it_everything_is(tmp_path, join):
    run = tmp_path / "run"
    key, other = (
        {"snapshots": SnapshotOptions(signing_key_file=write_key(tmp_path / name, name[0]))}
        for name in ("key", "stranger")
    )
    reader = join(run, "r", topology="all", **key)
    join(run, "trusted", value=1.0, **key).step()
    join(run, "unsigned", value=2.0).step()
    # What the others publish is nothing to it either.
    assert len(join(run, "stranger", value=3.0, topology="all", **other).say()) == 2
    said = reader.say()
    assert len(said) == 2
    assert any("'unsigned'" in message and "it is not signed" in message for message in said)
    assert any("'stranger'" in message and "another key" in message for message in said)
    assert sorted(reader.codistiller.teachers) == ["trusted"]


def test_a_shard_of_an_older_snapshot_in_place_of_a_newer_one_is_refused(tmp_path, join):
    run = tmp_path / "run"
    publisher, reader = join(run, "a", value=1.0), join(run, "b", model=nn.Linear(4, 3))
    publisher.step()
    reader.step()
    publisher.become(2.0)
    publisher.step()
    shard = "shard-00001-of-00001.safetensors"
    shutil.copy(run / "a" / "snapshots" / "0-0" / shard, run / "a" / "snapshots" / "0-1" / shard)
    (said,) = reader.say(3)
    assert f"a/snapshots/0-1/{shard}" in said
    assert reader.value_of("a") == 1.0
