import re
import subprocess
import sys
from pathlib import Path

import pytest

from codistill import load_snapshot
from codistill.snapshots.keys import status_key
from codistill.snapshots.status import MAX_STATUS_BYTES, Status
from codistill.stores import DirectoryStore

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "three_lines.py"


@pytest.mark.spawn
def test_two_started_peers_use_each_other_s_snapshots(tmp_path: Path) -> None:
    jobs = {
        peer: subprocess.Popen(
            [sys.executable, str(EXAMPLE), "--peer", peer, "--store", str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for peer in "ab"
    }
    try:
        printed = {peer: job.communicate(timeout=120) for peer, job in jobs.items()}
    finally:
        for job in jobs.values():
            job.kill()
            job.wait()
    store = DirectoryStore(tmp_path / "store")
    for peer, other in ("ab", "ba"):
        out, err = printed[peer]
        assert jobs[peer].returncode == 0, err
        taught = re.search(r"after 300 steps, (\d+)% of them with a teacher", out)
        # A snapshot that a slow disk holds up is quarantined once it has been bad for three intervals of 50.
        assert 50 <= int(taught[1]) <= 100
        key = status_key(peer)
        status = Status.from_json(store.read(key, max_bytes=MAX_STATUS_BYTES), key=key)
        assert status.state == "finished"
        assert list(status.reading) == [other]
        _, info = load_snapshot(store, peer)
        assert (info.step, info.samples, info.finished) == (300, 9600, True)


def test_readme_s_first_listing_is_the_marked_region() -> None:
    region = EXAMPLE.read_text().split("# [three lines]\n")[1]
    first_listing = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first_listing is not None
    assert first_listing[1] == region
