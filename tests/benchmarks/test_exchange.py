import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "exchange.py"


@pytest.mark.spawn
def test_the_benchmark_of_the_exchange_measures_and_judges(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    options = [
        "--width",
        "64",
        "--batch-size",
        "8",
        "--interval-steps",
        "600",
        "--rounds",
        "1",
        "--out",
        str(out),
    ]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *options], capture_output=True, text=True, check=False, timeout=200
    )
    assert out.exists(), done.stderr
    result = json.loads(out.read_text())
    assert 0 < result["training"]["inside_share"] < 1
    for name in ("publish", "fetch"):
        assert result[name]["speed"]["median"] > 0
    # A tiny model judges nothing; the exit status must follow from what was measured all the same.
    training = result["training"]
    holds = (
        training["inside_share"] <= 0.01
        and training["fetched"] == training["rounds"]
        and all(
            result[name]["speed"]["median"] >= 0.7 and result[name]["memory_over_snapshot"] <= 3.0
            for name in ("publish", "fetch")
        )
    )
    assert done.returncode == (0 if holds else 1), done.stderr
