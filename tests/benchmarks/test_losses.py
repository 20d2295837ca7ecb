import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "losses.py"


@pytest.mark.spawn
def test_the_benchmark_of_losses_measures_seconds_and_memory(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    arms = ["whole", "codistill", "head, Liger"]
    options = ["--shape", "512x4000:bfloat16", "--rounds", "1", "--json", str(out), "--arms", *arms]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *options], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["results"]["512x4000:bfloat16"]
    assert all(row["median_s"] > 0 for row in rows.values())
    # The gradient alone takes 4 MiB; several copies in float32 take 8 each.
    assert 3 < rows["codistill"]["peak_mib"] < 16 < rows["whole"]["peak_mib"]
    is_missing = importlib.util.find_spec("liger_kernel") is None
    assert ("liger-kernel: not installed" in done.stderr) == is_missing
