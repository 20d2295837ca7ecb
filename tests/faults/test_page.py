import ast
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from faults.page import is_kept, write_page
from faults.promises import PROMISES

from faults import soak

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "faults.json"


def test_the_page_is_what_the_results_say():
    assert (ROOT / "docs" / "failure.md").read_text() == write_page(json.loads(RESULTS.read_text()))


def test_no_promise_was_broken_in_the_committed_results():
    results = json.loads(RESULTS.read_text())
    assert is_kept(results)
    assert results["kills"]["tries"] >= 200
    assert sum(sum(results["flips"][run]["tries"].values()) for run in ("signed", "unsigned")) >= 1000
    assert results["soak"]["minutes"] >= 30


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.what)
def test_every_promise_is_done_by_tests_that_exist(promise):
    assert promise.tests
    for test in promise.tests:
        file, _, name = test.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text())
        functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        assert name in functions, test


def results_of(**changes):
    """Return results of two sections in which nothing went wrong, but for what is changed."""
    kills = {
        "tries": 2,
        "left": {"nothing": 2},
        "torn": [],
        "not_removed": 0,
        "not_pruned": 0,
        "hidden_files": 0,
    }
    tries = {"pointer": 1, "manifest": 0, "shard": 0}
    run = {
        "tries": tries,
        "refused": tries,
        "harmless": dict.fromkeys(tries, 0),
        "wrong": [],
        "not_recovered": 0,
    }
    return {"kills": {**kills, **changes}, "flips": {"unsigned": run, "signed": {**run, **changes}}}


def test_results_without_trouble_are_kept_promises():
    assert is_kept(results_of())
    assert is_kept({})


@pytest.mark.parametrize(
    "change",
    [{"torn": ["half"]}, {"not_removed": 1}, {"not_pruned": 1}, {"wrong": ["x"]}, {"not_recovered": 1}],
)
def test_whatever_went_wrong_is_a_broken_promise(change):
    assert not is_kept(results_of(**change))


def test_throughput_is_compared_with_the_interval_of_undisturbed_runs():
    without = [50.0, 51.0, 49.0, 50.5, 49.5]
    compared = soak.compare(without, [50.0, 49.0])
    # t(0.975, 4) = 2.7764, s = 0.7906, sqrt(1 + 1 / 5) = 1.0954
    assert math.isclose(compared["high"] - 50.0, 2.7764 * 0.7906 * 1.0954, rel_tol=1e-3)
    assert compared["is_inside"]
    assert not soak.compare(without, [45.0, 46.0])["is_inside"]


@pytest.mark.spawn
def test_the_command_goes_on_where_it_was_interrupted(tmp_path):
    def run(*sections):
        command = [sys.executable, str(ROOT / "benchmarks" / "faults.py")]
        options = ["--json", str(tmp_path / "faults.json"), "--page", str(tmp_path / "failure.md")]
        small = ["--kills", "2", "--flips", "4", "--sections", *sections]
        done = subprocess.run(
            [*command, *options, *small], capture_output=True, text=True, check=False, timeout=200
        )
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / "faults.json").read_text()), done.stderr

    first, said = run("flips")
    assert "flips ..." in said
    both, said = run("flips", "kills")
    assert "flips ..." not in said
    assert both["flips"] == first["flips"]
    assert both["kills"]["tries"] == 2
    assert "### Killed while publishing" in (tmp_path / "failure.md").read_text()
