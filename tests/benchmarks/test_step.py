import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "step.py"


@pytest.mark.spawn
def test_the_benchmark_of_a_step_measures_and_judges(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    options = ["--batch-size", "2", "--fewest-rounds", "5", "--most-rounds", "5", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *options], capture_output=True, text=True, check=False, timeout=200
    )
    result = json.loads(out.read_text())
    assert result["rounds"] == 5
    ratio = result["ratios"]["codistill / floor"]
    assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
    # Five rounds judge nothing; the exit status must follow from what was measured all the same.
    holds = ratio["median"] <= 1.05 and ratio["high"] - ratio["low"] <= 0.05
    assert done.returncode == (0 if holds else 1), done.stderr
