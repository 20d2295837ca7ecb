"""What a Lightning script needs to become a peer, and that it is one then."""

import csv
import difflib
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLAIN = Path(__file__).parent / "scripts" / "lightning_plain.py"
EXAMPLE = ROOT / "examples" / "lightning_peer.py"


def changed_lines() -> list[str]:
    """Return the lines that a diff of the two scripts adds and removes."""
    before, after = PLAIN.read_text().splitlines(), EXAMPLE.read_text().splitlines()
    return [line for line in difflib.ndiff(before, after) if line.startswith(("+ ", "- "))]


def test_a_script_becomes_a_peer_by_at_most_ten_changed_lines() -> None:
    assert 0 < len(changed_lines()) <= 10


def test_the_page_shows_the_changed_lines() -> None:
    page = (ROOT / "docs" / "lightning.md").read_text()
    shown = page.split("```diff\n")[1].split("```")[0].splitlines()
    assert [line for line in shown if line.startswith(("+", "-"))] == [
        line[0] + line[2:] for line in changed_lines() if line[2:]
    ]


def metrics(folder: Path) -> dict[str, list[float]]:
    """Return what a peer's logger was told, by name, in order."""
    (path,) = folder.glob("runs/lightning-*/logs/version_0/metrics.csv")
    columns: dict[str, list[float]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    columns.setdefault(name, []).append(float(value))
    return columns


@pytest.mark.spawn
def test_both_peers_of_the_example_learn_from_each_other(tmp_path: Path) -> None:
    jobs = {}
    for seed, peer in enumerate("ab"):
        (tmp_path / peer).mkdir()
        options = ["--peer", peer, "--store", str(tmp_path / "store"), "--seed", str(seed), "--epochs", "4"]
        jobs[peer] = subprocess.Popen(
            [sys.executable, EXAMPLE, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path / peer,
        )
    try:
        printed = {peer: job.communicate(timeout=240) for peer, job in jobs.items()}
    finally:
        for job in jobs.values():
            job.kill()
            job.wait()
    for peer, other in ("ab", "ba"):
        assert jobs[peer].returncode == 0, printed[peer][1]
        told = metrics(tmp_path / peer)
        assert told["codistill/teacher_share"][-1] > 0.5
        assert told[f"codistill/age_steps/{other}"]
        for name in ("train_loss", "codistill/distillation_loss"):
            assert all(map(math.isfinite, told[name]))
        (accuracy,) = told["accuracy"]
        assert accuracy > 0.8
    last = tmp_path / "a" / "runs/lightning-a/last.ckpt"
    again = subprocess.run(
        [sys.executable, EXAMPLE, "--peer", "a", "--store", tmp_path / "store", "--epochs", "5", "--resume"],
        capture_output=True,
        text=True,
        cwd=tmp_path / "a",
        timeout=240,
    )
    assert again.returncode == 0, again.stderr
    assert f"Restored all states from the checkpoint at {last}" in again.stderr
