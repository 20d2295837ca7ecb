import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from network.cases import Case, cases, cuts
from network.forecast import compare, job_of
from network.page import missed, write_page

from codistill.planner import Link, plan

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "network.json"
SNAPSHOTS = [
    {"scheme": f"checkpoint/{codec}", "interval_steps": 50, "store": "s3"} for codec in ("exact", "int8")
]
ALONE_S = {"small": 0.02, "large": 0.03}
# What each transfer takes besides its bytes.
LATENCY_S = 0.2


def run_of(case, *, bytes_factor=1.0, seconds_factor=1.0, warnings=()):
    """Return a run that came out as planned, but for factors."""
    alone_s = ALONE_S[case.size]
    run = {"steps": 50, "step_s": alone_s, "publish_s": [], "fetch_s": [], "warnings": list(warnings)}
    if case.scheme == "alone":
        return run
    job = job_of(case.size, step_s=alone_s, interval_steps=case.interval_steps or 50)
    cost = plan(job, Link.parse(case.rate)).costs[case.scheme]
    run["sent_bytes"] = 50 * cost.between.sent_bytes * bytes_factor
    run["received_bytes"] = 50 * cost.between.received_bytes * bytes_factor
    for name, transfer in cost.transfers.items():
        if case.interval_steps is None:
            run["step_s"] = alone_s + seconds_factor * (transfer.seconds + LATENCY_S)
        else:
            run[f"{name}_s"] = [seconds_factor * (transfer.seconds + LATENCY_S)]
    return run


def results_of(rate="100Mbit", **factors):
    """Return results that came out as planned, but for factors of the large model."""
    chosen = [
        Case(rate=rate, size=size, **words)
        for size in ALONE_S
        for words in ({"scheme": "alone"}, {"scheme": "all_reduce"}, *SNAPSHOTS)
    ]
    return {
        "cases": {case.key: [run_of(case, **(factors if case.size == "large" else {}))] for case in chosen}
    }


def cut_of(name="checkpoint, s3, silent", **changes):
    """Return what became of peers whose link was cut, all well but for changes of host b's."""
    span = {"steps_per_s": 40.0, "longest_step_s": 0.1, "longest_stall_s": 0.01}
    peer = {
        **dict.fromkeys(("before", "during", "after"), span),
        "back_to_training_s": 0.1,
        "back_to_fetching_s": 1.0,
        "back_to_publishing_s": 1.0,
        "warnings": [],
    }
    outcome = {"how": "silent", "cut_s": 20.0, "peers": {"a": peer, "b": {**peer, **changes}}}
    return {"cuts": {name: outcome}}


def test_the_page_is_what_the_results_say():
    assert (ROOT / "docs" / "network.md").read_text() == write_page(json.loads(RESULTS.read_text()))


def test_the_committed_results_hold_the_limits_of_bytes_and_of_cuts_and_are_all_there():
    results = json.loads(RESULTS.read_text())
    # Seconds that miss theirs stand on the page.
    assert [sentence for sentence in missed(results) if "over 25%" not in sentence] == []
    assert set(results["cases"]) == {case.key for case in cases()}
    assert set(results["cuts"]) == {cut.name for cut in cuts()}


def test_what_comes_out_as_planned_holds_the_limits():
    results = results_of()
    assert missed({**results, **cut_of()}) == []
    errors = [row.error for row in compare(results) if row.error is not None]
    # Bytes of both models; of the large one a step, and two publishes and fetches.
    assert len(errors) == 2 * 6 + 5
    assert all(math.isclose(error, 0.0, abs_tol=1e-9) for error in errors)


@pytest.mark.parametrize(("factor", "count"), [(0.96, 0), (1.04, 0), (0.94, 6), (1.06, 6)])
def test_bytes_that_are_planned_more_than_a_twentieth_off_miss_the_limit(factor, count):
    assert len(missed(results_of(bytes_factor=factor))) == count


@pytest.mark.parametrize(("factor", "count"), [(0.85, 0), (1.25, 0), (0.75, 5), (1.45, 5)])
def test_seconds_that_are_planned_more_than_a_quarter_off_miss_the_limit(factor, count):
    assert len(missed(results_of(seconds_factor=factor))) == count


def test_steps_are_held_against_the_run_alone_of_the_same_round():
    results = results_of()
    # In another round everything took two seconds longer.
    for key in ("100Mbit large alone", "100Mbit large all_reduce"):
        (run,) = results["cases"][key]
        results["cases"][key].append({**run, "step_s": run["step_s"] + 2.0})
    (error,) = [row.error for row in compare(results) if row.what == "step" and row.error is not None]
    assert math.isclose(error, 0.0, abs_tol=1e-9)


def test_no_link_is_taken_to_be_faster_than_it_is_sold():
    results = results_of()
    # A codec that takes its time makes small transfers slow.
    (run,) = results["cases"]["100Mbit small checkpoint/int8 50 s3"]
    run["publish_s"] = [run["publish_s"][0] + 0.1]
    rows = [row for row in compare(results) if row.what == "publish" and row.planned is not None]
    assert [row.planned for row in rows] == [pytest.approx(row.median + 0.1 / 2) for row in rows]
    assert len(rows) == 2


def test_seconds_without_the_run_alone_are_not_planned():
    results = results_of()
    del results["cases"]["100Mbit small alone"]
    assert [row.error for row in compare(results) if row.what == "step"] == [None] * 7


def test_seconds_are_judged_on_the_slow_link_only():
    assert missed(results_of("1Gbit", seconds_factor=2.0)) == []


def test_a_run_in_which_somebody_was_warned_misses_the_limits():
    assert len(missed(results_of(warnings=["skipped"]))) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"back_to_training_s": None},
        {"back_to_fetching_s": None},
        {"back_to_publishing_s": None},
        {"during": {"longest_stall_s": 1.5}},
        {"during": {"longest_stall_s": None}},
        {"error": "StoreError"},
    ],
)
def test_peers_that_stall_fail_or_do_not_find_back_miss_the_limits(change):
    (sentence,) = missed(cut_of(**change))
    assert "cut of checkpoint, s3, silent: peer b" in sentence


def test_ranks_that_wait_must_go_on_if_they_are_patient_and_fail_if_not():
    assert missed(cut_of("all_reduce, patient")) == []
    assert len(missed(cut_of("all_reduce, patient", error="timed out"))) == 1
    assert len(missed(cut_of("prediction, patient", back_to_training_s=None))) == 1
    a, b = missed(cut_of("prediction, impatient"))
    assert a.endswith("peer a did not fail.")
    assert b.endswith("peer b did not fail.")


def test_results_that_are_not_there_yet_are_left_out_of_the_page():
    assert "## Bytes" not in write_page({})
    assert "limit\n\nNothing." in write_page({})
    assert "- 100Mbit large all_reduce: sent is planned" in write_page(results_of(bytes_factor=1.1))
    assert "## Seconds" in write_page(results_of())
    assert "| checkpoint, s3, silent | b | 40.0 | 40.0 | 40.0 |" in write_page(cut_of())


@pytest.mark.spawn
def test_the_command_goes_on_where_it_was_interrupted(tmp_path, hosts):
    if shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None:
        pytest.skip("this system has no sshd, which the command needs: install openssh-server")
    results, page = tmp_path / "network.json", tmp_path / "network.md"
    alone = Case(rate="100Mbit", size="small", scheme="alone")
    first = {**run_of(alone), "step_s": 12.3}
    results.write_text(json.dumps({"cases": {alone.key: [first]}}))
    command = [sys.executable, str(ROOT / "benchmarks" / "network.py"), "--rounds", "2", "--only", alone.key]
    files = ["--json", str(results), "--page", str(page)]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("...") == 1
    kept, second = json.loads(results.read_text())["cases"][alone.key]
    assert kept == first
    assert second["step_s"] != first["step_s"]
    assert "| small | alone |" in page.read_text()
