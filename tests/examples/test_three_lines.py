"""Two peers of examples/three_lines.py, and what the pages do with their run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from codistill import load_snapshot
from codistill.cli import main
from codistill.snapshots.keys import status_key
from codistill.snapshots.status import MAX_STATUS_BYTES, Status
from codistill.stores import DirectoryStore

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "three_lines.py"
STORE = "runs/three_lines"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader stands: the examples are there."""
    path = tmp_path_factory.mktemp("reader")
    (path / "examples").symlink_to(ROOT / "examples")
    return path


@pytest.fixture(scope="module")
def tried(folder: Path) -> subprocess.CompletedProcess[str]:
    """The commands of docs/watch.md, which start both peers, as they came out."""
    page = (ROOT / "docs" / "watch.md").read_text()
    (block,) = re.findall(r"<!-- tried: begin -->\n```bash\n(.*?)```\n<!-- tried: end -->", page, re.DOTALL)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env={
            # The tests' own may be run where something says how wide a terminal is.
            **{name: value for name, value in os.environ.items() if name != "COLUMNS"},
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.spawn
def test_two_started_peers_use_each_other_s_snapshots(
    tried: subprocess.CompletedProcess[str], folder: Path
) -> None:
    taught = re.findall(r"after 300 steps, (\d+)% of them with a teacher", tried.stdout)
    # A snapshot that a slow disk holds up is quarantined once it has been bad for three intervals of 50.
    assert [50 <= int(share) <= 100 for share in taught] == [True, True]
    store = DirectoryStore(folder / STORE)
    for peer, other in ("ab", "ba"):
        key = status_key(peer)
        status = Status.from_json(store.read(key, max_bytes=MAX_STATUS_BYTES), key=key)
        assert status.state == "finished"
        assert list(status.reading) == [other]
        _, info = load_snapshot(store, peer)
        assert (info.step, info.samples, info.finished) == (300, 9600, True)


@pytest.mark.spawn
def test_the_watch_shows_a_real_run(tried: subprocess.CompletedProcess[str]) -> None:
    for peer, other in ("ab", "ba"):
        (row,) = (line.split() for line in tried.stdout.splitlines() if line.startswith(f"{peer} "))
        assert row[:4] == [peer, "finished", "300", "9,600"]
        assert other in row
    # Two lines were read of many: whoever writes ends without a word when nobody reads any more.
    views = [json.loads(line) for line in tried.stdout.splitlines() if line.startswith("{")]
    assert len(views) == 2
    assert "Traceback" not in tried.stderr
    assert "roken" not in tried.stderr


@pytest.mark.spawn
def test_a_real_run_tells_all_that_the_watch_has(
    tried: object, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(folder / STORE), "--once", "--json"]) == 0
    view = json.loads(capsys.readouterr().out)
    assert view["problems"] == []
    for peer, other in zip(view["peers"], "ba", strict=True):
        assert (peer["state"], peer["step"], peer["samples"]) == ("finished", 300, 9600)
        assert (peer["incarnation"], peer["problems"]) == (0, [])
        assert peer["sequence"] >= 1
        assert peer["task_loss"] > 0.0
        assert list(peer["teachers"]) == [other]
        assert peer["weight"] == 1.0
        assert 0.0 <= peer["stall_share"] < 1.0
        assert peer["agreement"].keys() <= {other}


@pytest.mark.spawn
def test_the_table_has_the_columns_that_are_shown_to_beginners(
    tried: subprocess.CompletedProcess[str],
) -> None:
    quick_start = (ROOT / "docs" / "quick-start.md").read_text()
    ours, theirs = (
        [line.split() for line in text.splitlines() if line.startswith("peer  ")]
        for text in (tried.stdout, quick_start)
    )
    assert ours == theirs
    assert len(ours) == 1
    assert tried.stdout.count("finished   300") == quick_start.count("finished   300") == 2


@pytest.mark.spawn
def test_one_peer_is_exported(tried: object, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The line of how-it-works.md.
    monkeypatch.chdir(folder)
    assert main(["export", STORE, "--peer", "a", "--out", "model.safetensors"]) == 0
    assert (folder / "model.safetensors").is_file()


def test_readme_s_first_listing_is_the_marked_region() -> None:
    region = EXAMPLE.read_text().split("# [three lines]\n")[1]
    first_listing = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first_listing is not None
    assert first_listing[1] == region
