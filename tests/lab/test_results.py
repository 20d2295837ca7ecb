import json
import math
from pathlib import Path

import pytest

from codistill.lab import results
from codistill.lab.results import Evaluation, PeerResult


def evaluation(step: int) -> Evaluation:
    return Evaluation(
        step=step,
        samples=16 * step,
        train_loss=math.nan,
        distillation_loss=None,
        validation_accuracy=0.5,
        validation_nll=1.25,
        distance=3.0,
        learning_rate=0.1,
        weight_decay=1e-3,
        teacher_share=None,
    )


def peer_result() -> PeerResult:
    return PeerResult(
        arm="alone",
        peer="a",
        seed=1,
        updates=40,
        samples=640,
        parameters=10,
        validation_accuracy=0.5,
        validation_nll=1.25,
        test_accuracy=None,
        test_nll=None,
        distance=3.0,
        seconds=0.5,
        stall_s=0.0,
        bytes_published=0,
        bytes_fetched=0,
        bytes_all_reduced=0,
        teacher_share=None,
        teacher_samples=0,
    )


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    results.save_result(path, peer_result())
    assert results.load_result(path) == peer_result()


def test_a_result_of_before_quarantines_were_recorded_is_read(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    results.save_result(path, peer_result())
    document = json.loads(path.read_text())
    for field in (
        "publishes_skipped",
        "weight_factor",
        "quarantined",
        "quarantined_updates",
        "first_quarantine",
    ):
        del document[field]
    path.write_text(json.dumps(document))
    assert results.load_result(path) == peer_result()


def test_rows_are_added_and_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    results.append_evaluation(path, evaluation(10))
    results.append_evaluation(path, evaluation(20))
    rows = results.load_evaluations(path)
    assert [row.step for row in rows] == [10, 20]
    assert math.isnan(rows[0].train_loss)
    assert rows[0].distillation_loss is None


def test_a_row_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    results.append_evaluation(path, evaluation(10))
    with path.open("a") as file:
        file.write('{"step": 20, "sam')
    assert [row.step for row in results.load_evaluations(path)] == [10]
    assert results.load_last_evaluation(path) == results.load_evaluations(path)[-1]


def test_a_file_without_rows_has_no_last_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "sam')
    assert results.load_last_evaluation(path) is None


def test_a_bad_row_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    results.save_evaluations(path, [evaluation(10)])
    with path.open("a") as file:
        file.write("nonsense\n")
    for load in (results.load_evaluations, results.load_last_evaluation):
        with pytest.raises(ValueError, match=r"metrics\.jsonl:2 must hold JSON"):
            load(path)
