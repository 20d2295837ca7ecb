import io
from dataclasses import replace

import pytest
from rich.console import Console

from codistill.lab.compare import compare
from codistill.lab.comparison import Comparison
from codistill.lab.folder import RunFolder
from codistill.lab.report import comparison_markdown, print_comparison
from codistill.lab.report.columns import details, footnotes, headlines


@pytest.fixture(scope="module")
def clicks(reported_experiment) -> Comparison:
    return compare(RunFolder(reported_experiment))


def labels(columns) -> list[str]:
    return [column.label for column in columns]


def test_a_task_that_is_judged_by_nll_shows_it_first_and_its_further_score_beside_it(clicks):
    assert labels(headlines(clicks))[:3] == ["NLL", "all peers", "AUC"]
    assert "accuracy %" in labels(details(clicks))
    (nll, peers) = headlines(clicks)[:2]
    assert nll.cell(clicks.rows[0]).startswith(peers.cell(clicks.rows[0])[:4])


def test_without_further_scores_there_are_accuracy_nll_and_distance_in_some_order(clicks):
    rows = tuple(replace(row, further={}, further_sd={}) for row in clicks.rows)
    tail = ["bytes/step", "taught %", "s", "compute"]
    by_nll = Comparison(rows=rows, verdicts=(), metric="nll")
    assert labels(headlines(by_nll)) == ["NLL", "all peers", "accuracy %", "churn %", "distance", *tail]
    by_accuracy = Comparison(rows=rows, verdicts=())
    assert labels(headlines(by_accuracy)) == ["accuracy %", "all peers", "NLL", "churn %", "distance", *tail]


@pytest.mark.parametrize("metric", ["accuracy", "nll"])
@pytest.mark.parametrize(
    "further", [{}, {"bleu": 23.4}, {"bleu": 23.4, "auc": 0.91}, {"x": 1, "y": 2, "z": 3}]
)
def test_the_headlines_fit_100_columns_whatever_is_scored(clicks, metric, further):
    rows = tuple(
        replace(
            row, arm="codistillation_predictions-100", further=further, further_sd=further, seconds=9999.9
        )
        for row in clicks.rows
    )
    comparison = Comparison(rows=rows, verdicts=(), metric=metric)
    out = io.StringIO()
    print_comparison(comparison, console=Console(file=out, width=100))
    assert "\N{HORIZONTAL ELLIPSIS}" not in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 100
    for name in further:
        label = {"bleu": "BLEU", "auc": "AUC"}.get(name, name)
        assert label in labels(headlines(comparison) + details(comparison))


def test_details_are_left_out_where_no_arm_has_them(clicks):
    there = labels(details(clicks))
    assert {"best model, NLL", "ensemble, NLL", "D", "agreement %", "memory", "samples"} <= set(there)
    rows = tuple(
        replace(row, agreement=None, teacher_loss=None, peak_memory_bytes=None) for row in clicks.rows
    )
    left = labels(details(Comparison(rows=rows, verdicts=(), metric="nll")))
    assert [label for label in there if label not in left] == ["agreement %", "D", "memory"]


def test_notes_say_what_is_counted_in_and_what_is_judged(clicks):
    notes = "\n".join(footnotes(clicks))
    assert "two_phase: samples, seconds and compute include those of two_phase-teachers" in notes
    assert "Judged by the mean of the probabilities of all its models: ensemble." in notes
    assert "Expected ahead: holds if the interval lies above 0" in notes


def test_markdown_says_what_held(clicks):
    text = comparison_markdown(clicks)
    assert "- A5, codistillation-10: ahead of all_reduce on test NLL (lower is better)" in text
    assert "expected parity within 0.001: holds" in text


def test_advice_that_was_given_while_training_is_a_note_of_its_arm(clicks):
    first, *others = clicks.rows
    advised = replace(first, models=2, seeds=3, advised=4, advice=("Lower weight.", "Lower weight decay."))
    (note,) = set(footnotes(replace(clicks, rows=(advised, *others)))) - set(footnotes(clicks))
    assert note == (f"{first.arm}: advice given while training, to 4 of 6: Lower weight. Lower weight decay.")
