import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "trainer.py"


@pytest.mark.spawn
def test_the_parts_of_an_update_are_measured(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    options = ["--updates", "5", "--batch-size", "4", "--model", "resnet8", "--json", str(out)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *options], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    parts = [result["ms"][name] for name in ("data", "forward", "backward", "optimizer")]
    assert min(parts) > 0
    assert 0 < result["trainer_share"] < 1
    assert sum(parts) < 2 * result["ms"]["whole"]
    assert "the trainer's own share" in done.stdout
