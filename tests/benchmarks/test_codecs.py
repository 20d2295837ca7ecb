import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "codecs.py"


@pytest.mark.spawn
def test_the_benchmark_of_codecs_measures_bytes_seconds_and_predictions(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    options = ["--megabytes", "2", "--rounds", "2", "--seeds", "2", "--steps", "20", "--tasks", "digits"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *options, "--json", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    speed = result["speed"]
    assert speed["exact"]["bytes"] > 1.9 * speed["bfloat16"]["bytes"] > 3.6 * speed["int8"]["bytes"]
    assert all(row["encode_s"] > 0 and row["decode_s"] > 0 for row in speed.values())
    digits = result["predictions"]["digits"]
    kl_nats = {name: row["mean"] for name, row in digits["kl_nats"].items()}
    assert kl_nats["exact"] == 0
    assert 0 < kl_nats["bfloat16"] < kl_nats["another teacher"] / 100
    assert 0 < kl_nats["int8"] < kl_nats["another teacher"] / 100
    assert digits["bytes"]["int8"] < 0.3 * digits["bytes"]["exact"]
    is_missing = importlib.util.find_spec("hivemind") is None
    assert ("hivemind Uniform8BitQuantization: not installed" in done.stdout) == is_missing
