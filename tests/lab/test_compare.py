import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codistill.errors import DataMissingError
from codistill.lab import folder, kept_scores, methods, results
from codistill.lab.claims import Claim, write_claims
from codistill.lab.compare import compare
from codistill.lab.comparison import read_comparison, to_document, write_comparison
from codistill.lab.kept_scores import KeptScores
from codistill.lab.recipe import Recipe
from codistill.lab.results import Evaluation, PeerResult

PLAIN = Recipe(name="test", task="digits", method="all_reduce", arm="plain", peers=1, ranks=2, updates=10)
TAUGHT = replace(PLAIN, method="codistillation", arm="taught", peers=2)
ALONE = replace(PLAIN, method="alone", arm="alone", peers=2)
RIGHT = [0, 1, 0, 1]
LATER = (
    "best_peer_test_accuracy",
    "ensemble_test_nll",
    "test_calibration_error",
    "further",
    "further_sd",
    "churn_low",
    "difference",
    "agreements",
    "teacher_losses",
    "samples",
    "bytes_published",
    "peak_memory_bytes",
    "is_ensemble",
    "earlier",
)
"""Some of the fields of a row that were added later."""


def make_folder(path: Path, *arms: Recipe, seeds: tuple[int, ...] = (0, 1, 2)) -> folder.RunFolder:
    return folder.create(path / "out", arms=arms, seeds=seeds, command=["test"])


def add(run: folder.RunFolder, arm: str, seed: int, peer: str, probabilities: list[float], **changes) -> None:
    """Write what a peer leaves; `probabilities` are those of class 1."""
    ones = np.array(probabilities)
    scores = np.log(np.stack([1 - ones, ones], axis=1)).astype(np.float32)
    result = PeerResult(
        arm=arm,
        peer=peer,
        seed=seed,
        updates=10,
        samples=320,
        parameters=5,
        validation_accuracy=0.5,
        validation_nll=1.0,
        test_accuracy=float(np.mean((ones > 0.5) == np.array(RIGHT))),
        test_nll=0.25 * (seed + 1),
        distance=2.0 + seed,
        seconds=1.0,
        stall_s=0.0,
        bytes_published=0,
        bytes_fetched=0,
        bytes_all_reduced=0,
        teacher_share=None,
        teacher_samples=0,
    )
    target = run.peer_path(arm, seed, peer)
    target.mkdir(parents=True)
    KeptScores.of_whole(scores, np.array(RIGHT)).save(target)
    results.save_result(target / results.RESULT, replace(result, **changes))


def evaluation(**changes) -> Evaluation:
    row = Evaluation(
        step=10,
        samples=320,
        train_loss=1.0,
        distillation_loss=0.5,
        validation_accuracy=0.5,
        validation_nll=1.0,
        distance=2.0,
        learning_rate=0.1,
        weight_decay=0.0,
        teacher_share=1.0,
    )
    return replace(row, **changes)


def test_row_holds_mean_and_spread_of_the_first_model_and_the_mean_of_all(tmp_path):
    run = make_folder(tmp_path, TAUGHT, seeds=(0, 1))
    for seed, right in ((0, 0.5), (1, 1.0)):
        add(run, "taught", seed, "a", [0.1] * 4, test_accuracy=right)
        add(run, "taught", seed, "b", [0.1] * 4, test_accuracy=0.25, test_nll=2.0, distance=100.0)
    (row,) = compare(run).rows
    assert row.test_accuracy == pytest.approx(0.75)
    assert row.test_accuracy_sd == pytest.approx(0.25 * 2**0.5)
    assert row.peers_test_accuracy == pytest.approx((0.5 + 0.25 + 1.0 + 0.25) / 4)
    assert row.test_nll == pytest.approx((0.25 + 0.5) / 2)
    assert row.peers_test_nll == pytest.approx((0.25 + 2.0 + 0.5 + 2.0) / 4)
    assert row.distance == pytest.approx(2.5)
    assert (row.models, row.seeds) == (2, 2)


def test_churn_is_between_seeds_of_the_first_peer_and_never_between_coupled_peers(tmp_path):
    run = make_folder(tmp_path, TAUGHT)
    for seed, labels in enumerate(([0.9, 0.9, 0.9, 0.9], [0.1, 0.9, 0.9, 0.9], [0.1, 0.1, 0.9, 0.9])):
        add(run, "taught", seed, "a", labels)
        add(run, "taught", seed, "b", [0.1] * 4)
    (row,) = compare(run).rows
    assert row.churn == pytest.approx((1 / 4 + 2 / 4 + 1 / 4) / 3)


def test_one_seed_has_neither_spread_nor_churn(tmp_path):
    run = make_folder(tmp_path, PLAIN, seeds=(0,))
    add(run, "plain", 0, "a", [0.1] * 4)
    (row,) = compare(run).rows
    assert (row.test_accuracy, row.test_accuracy_sd, row.churn) == (0.5, None, None)


def test_compute_counts_three_passes_a_sample_and_one_a_teacher(tmp_path):
    run = make_folder(tmp_path, PLAIN, TAUGHT, seeds=(0,))
    add(run, "plain", 0, "a", [0.1] * 4, samples=640)
    for peer in "ab":
        add(run, "taught", 0, peer, [0.1] * 4, samples=320, teacher_samples=300, teacher_share=0.9)
    plain, taught = compare(run).rows
    assert plain.compute == 1.0
    assert taught.compute == pytest.approx((3 * 640 + 600) / (3 * 640))


def test_compute_is_relative_to_the_first_arm_without_teachers_where_nothing_is_all_reduced(tmp_path):
    run = make_folder(tmp_path, TAUGHT, ALONE, seeds=(0,))
    for peer in "ab":
        add(run, "taught", 0, peer, [0.1] * 4, samples=320, teacher_samples=300, teacher_share=0.9)
        add(run, "alone", 0, peer, [0.1] * 4, samples=160)
    taught, alone, _ = compare(run).rows
    assert (taught.compute, alone.compute) == (pytest.approx((3 * 640 + 600) / (3 * 320)), 1.0)


def test_compute_is_unknown_where_every_arm_has_teachers(tmp_path):
    run = make_folder(tmp_path, TAUGHT, seeds=(0,))
    for peer in "ab":
        add(run, "taught", 0, peer, [0.1] * 4, teacher_share=1.0)
    assert compare(run).rows[0].compute is None


def test_bytes_are_those_of_one_peer_or_one_rank_an_update(tmp_path):
    run = make_folder(tmp_path, PLAIN, TAUGHT, seeds=(0,))
    add(run, "plain", 0, "a", [0.1] * 4, bytes_all_reduced=1000)
    add(run, "taught", 0, "a", [0.1] * 4, bytes_published=100, bytes_fetched=300)
    add(run, "taught", 0, "b", [0.1] * 4, bytes_published=100, bytes_fetched=100)
    assert [row.exchanged_bytes for row in compare(run).rows] == [100.0, 30.0]


def test_seconds_are_those_of_the_slowest_peer(tmp_path):
    run = make_folder(tmp_path, TAUGHT, seeds=(0, 1))
    for seed in (0, 1):
        add(run, "taught", seed, "a", [0.1] * 4, seconds=1.0)
        add(run, "taught", seed, "b", [0.1] * 4, seconds=3.0 + seed)
    assert compare(run).rows[0].seconds == pytest.approx(3.5)


@pytest.mark.parametrize(("share", "codistilled"), [(0.49, False), (0.5, True), (None, None)])
def test_an_arm_with_hardly_any_teachers_is_marked(tmp_path, share, codistilled):
    run = make_folder(tmp_path, TAUGHT, seeds=(0,))
    for peer in "ab":
        add(run, "taught", 0, peer, [0.1] * 4, teacher_share=share)
    (row,) = compare(run).rows
    assert (row.teacher_share, row.is_codistilled) == (share, codistilled)


def test_one_model_without_a_teacher_in_one_run_is_enough_to_be_marked(tmp_path):
    run = make_folder(tmp_path, TAUGHT, seeds=(0, 1))
    for seed in (0, 1):
        for peer in "ab":
            share = 0.4 if (seed, peer) == (1, "b") else 1.0
            add(run, "taught", seed, peer, [0.1] * 4, teacher_share=share)
    (row,) = compare(run).rows
    assert (row.teacher_share, row.is_codistilled) == (pytest.approx(0.85), False)


def test_nothing_is_claimed_of_or_against_an_arm_that_was_not_codistilled(tmp_path):
    run = make_folder(tmp_path, PLAIN, TAUGHT)
    for seed, right in enumerate((0.5, 0.6, 0.7)):
        add(run, "plain", seed, "a", [0.1] * 4, test_accuracy=right)
        for peer in "ab":
            add(run, "taught", seed, peer, [0.1] * 4, test_accuracy=right + 0.2, teacher_share=0.3)
    of = Claim(arm="taught", against="plain", metric="test_accuracy", says="")
    against = Claim(arm="plain", against="taught", metric="churn", says="")
    verdicts = compare(run, declared=[of, against]).verdicts
    assert [verdict.outcome for verdict in verdicts] == ["not codistilled"] * 2
    assert [verdict.not_codistilled for verdict in verdicts] == [("taught",)] * 2
    assert [verdict.low for verdict in verdicts] == [None, None]


def test_what_befell_free_running_peers_is_in_the_row(tmp_path):
    run = make_folder(tmp_path, PLAIN, replace(TAUGHT, lockstep=False, interval_steps=2), seeds=(0,))
    add(run, "plain", 0, "a", [0.1] * 4)
    befell = {"publishes_skipped": 2, "quarantined_updates": 4, "weight_factor": 0.25}
    add(run, "taught", 0, "a", [0.1] * 4, teacher_share=0.6, **befell)
    add(run, "taught", 0, "b", [0.1] * 4, teacher_share=1.0)
    plain, taught = compare(run).rows
    assert (taught.is_lockstep, taught.weight_factor) == (False, 0.25)
    # 2 of 5 intervals and 4 of 10 updates of one of two peers.
    assert (taught.skipped_share, taught.quarantined_share) == (pytest.approx(0.2), pytest.approx(0.2))
    assert (plain.is_lockstep, plain.skipped_share, plain.quarantined_share, plain.weight_factor) == (
        None,
    ) * 4


def test_ensemble_is_the_mean_of_probabilities(tmp_path):
    run = make_folder(tmp_path, ALONE, seeds=(0, 1))
    for seed in (0, 1):
        add(run, "alone", seed, "a", [0.4, 0.4, 0.4, 0.4])
        add(run, "alone", seed, "b", [0.1, 0.9, 0.3, 0.5])
    members, ensemble = compare(run).rows
    assert (members.arm, ensemble.arm) == ("alone", "alone_ensemble")
    # Class 1 has 0.25, 0.65, 0.35, 0.45: labels 0, 1, 0, 0 where 0, 1, 0, 1 is right.
    assert ensemble.test_accuracy == 0.75
    assert ensemble.test_nll == pytest.approx(-np.log([0.75, 0.65, 0.65, 0.45]).mean(), abs=1e-6)
    assert ensemble.churn == 0
    assert (ensemble.distance, ensemble.peers_test_accuracy) == (None, None)


def test_peers_that_taught_each_other_are_no_independent_ensemble(tmp_path):
    run = make_folder(tmp_path, TAUGHT, seeds=(0,))
    for peer in "ab":
        add(run, "taught", 0, peer, [0.1] * 4)
    assert [row.arm for row in compare(run).rows] == ["taught"]


@pytest.mark.parametrize("targets", [None, [1, 1, 0, 1]])
def test_ensemble_is_left_out_unless_its_models_have_the_same_right_answers(tmp_path, targets):
    run = make_folder(tmp_path, ALONE, seeds=(0,))
    for peer in "ab":
        add(run, "alone", 0, peer, [0.1] * 4)
    assert [row.arm for row in compare(run).rows] == ["alone", "alone_ensemble"]
    path = run.peer_path("alone", 0, "b") / kept_scores.TARGETS
    path.unlink()
    if targets is not None:
        np.save(path, np.array(targets))
    assert [row.arm for row in compare(run).rows] == ["alone"]


def test_best_peer_is_chosen_on_validation_and_never_on_test(tmp_path):
    run = make_folder(tmp_path, TAUGHT, seeds=(0, 1))
    for seed, best in ((0, "a"), (1, "b")):
        for peer in "ab":
            # The one that is better on validation is worse on test.
            validation, test = (0.9, 0.25) if peer == best else (0.8, 1.0)
            changes = {"validation_accuracy": validation, "test_accuracy": test, "test_nll": test}
            add(run, "taught", seed, peer, [0.1] * 4, **changes)
    (row,) = compare(run).rows
    assert (row.best_peer_test_accuracy, row.best_peer_test_nll) == (0.25, 0.25)
    assert row.peers_test_accuracy == pytest.approx(0.625)


def test_best_peer_of_a_task_that_is_judged_by_nll_has_the_lowest(tmp_path):
    run = make_folder(tmp_path, replace(TAUGHT, task="adult"), seeds=(0,))
    add(run, "taught", 0, "a", [0.1] * 4, validation_nll=0.2, validation_accuracy=0.5, test_nll=3.0)
    add(run, "taught", 0, "b", [0.1] * 4, validation_nll=math.nan, validation_accuracy=0.9, test_nll=5.0)
    comparison = compare(run)
    assert comparison.metric == "nll"
    assert comparison.rows[0].best_peer_test_nll == 3.0


def test_the_ensemble_of_peers_that_taught_each_other_is_shown_beside_them(tmp_path):
    run = make_folder(tmp_path, PLAIN, TAUGHT, seeds=(0,))
    add(run, "plain", 0, "a", [0.1] * 4)
    add(run, "taught", 0, "a", [0.4, 0.4, 0.4, 0.4])
    add(run, "taught", 0, "b", [0.1, 0.9, 0.3, 0.5])
    plain, taught = compare(run).rows
    assert taught.ensemble_test_accuracy == 0.75
    assert taught.ensemble_test_nll == pytest.approx(-np.log([0.75, 0.65, 0.65, 0.45]).mean(), abs=1e-6)
    assert (plain.ensemble_test_accuracy, plain.ensemble_test_nll, taught.is_ensemble) == (None, None, False)


def test_an_arm_whose_method_is_an_ensemble_is_judged_by_it(tmp_path):
    run = make_folder(tmp_path, PLAIN, replace(ALONE, method="ensemble", arm="joint"), seeds=(0, 1))
    for seed in (0, 1):
        add(run, "plain", seed, "a", [0.1] * 4)
        add(run, "joint", seed, "a", [0.4, 0.4, 0.4, 0.4])
        add(run, "joint", seed, "b", [0.1, 0.9, 0.3, 0.5])
    claim = Claim(arm="joint", against="plain", metric="test_accuracy", says="")
    comparison = compare(run, declared=[claim])
    _, joint = comparison.rows
    assert (joint.arm, joint.is_ensemble, joint.test_accuracy, joint.distance) == ("joint", True, 0.75, None)
    # The probabilities of the likeliest are 0.75, 0.65, 0.65 and 0.55, and the last one is wrong.
    assert joint.test_calibration_error == pytest.approx(0.25 * (0.25 + 0.35 + 0.35 + 0.55), abs=1e-6)
    assert joint.peers_test_accuracy == pytest.approx((0.5 + 0.75) / 2)
    assert comparison.verdicts[0].difference == pytest.approx(0.25)


def test_an_ensemble_whose_models_left_no_scores_has_none(tmp_path):
    run = make_folder(tmp_path, replace(ALONE, method="ensemble", arm="joint"), seeds=(0,))
    for peer in "ab":
        add(run, "joint", 0, peer, [0.1] * 4)
    (run.peer_path("joint", 0, "b") / kept_scores.TARGETS).unlink()
    (row,) = compare(run).rows
    assert (row.test_accuracy, row.test_nll, row.peers_test_accuracy) == (None, None, 0.5)


def test_ensembles_over_too_many_classes_have_an_nll_and_no_labels(tmp_path):
    run = make_folder(tmp_path, ALONE, seeds=(0, 1))
    for seed in (0, 1):
        for peer in "ab":
            add(run, "alone", seed, peer, [0.1] * 4)
            (run.peer_path("alone", seed, peer) / kept_scores.WHOLE).unlink()
    alone, joint = compare(run).rows
    assert (joint.test_accuracy, joint.churn, joint.test_calibration_error) == (None, None, None)
    assert joint.test_nll == pytest.approx(-np.log([0.9, 0.1, 0.9, 0.1]).mean(), abs=1e-6)
    assert (alone.churn, alone.difference) == (0.0, None)


def test_difference_is_that_of_probabilities_between_seeds_of_the_first_peer(tmp_path):
    run = make_folder(tmp_path, TAUGHT)
    for seed, ones in enumerate((0.1, 0.2, 0.4)):
        add(run, "taught", seed, "a", [ones] * 4)
        add(run, "taught", seed, "b", [0.9] * 4)
    (row,) = compare(run).rows
    assert row.difference == pytest.approx((0.1 + 0.3 + 0.2) / 3)
    assert row.churn == 0.0


def test_difference_can_be_claimed_like_churn(tmp_path):
    run = make_folder(tmp_path, PLAIN, TAUGHT)
    for seed, ones in enumerate((0.1, 0.2, 0.4)):
        add(run, "plain", seed, "a", [ones] * 4)
        for peer in "ab":
            add(run, "taught", seed, peer, [0.3] * 4)
    claim = Claim(arm="taught", against="plain", metric="difference", says="")
    (verdict,) = compare(run, declared=[claim]).verdicts
    assert verdict.difference == pytest.approx(-0.2)
    assert verdict.seeds == 3


def test_churn_has_an_interval_from_three_seeds_on(tmp_path):
    run = make_folder(tmp_path, PLAIN)
    for seed, labels in enumerate(([0.9, 0.9, 0.9, 0.9], [0.1, 0.9, 0.9, 0.9], [0.1, 0.1, 0.1, 0.9])):
        add(run, "plain", seed, "a", labels)
    (row,) = compare(run).rows
    pseudo = [3 * 0.5 - 2 * pair for pair in (0.5, 0.75, 0.25)]
    reach = 4.30265 * np.std(pseudo, ddof=1) / 3**0.5
    assert (row.churn_low, row.churn_high) == pytest.approx((0.5 - reach, 0.5 + reach), abs=1e-5)


def test_seeds_with_other_right_answers_make_no_pair(tmp_path):
    run = make_folder(tmp_path, PLAIN, seeds=(0, 1))
    for seed in (0, 1):
        add(run, "plain", seed, "a", [0.1] * 4)
    np.save(run.peer_path("plain", 1, "a") / kept_scores.TARGETS, np.array([1, 1, 1, 1]))
    (row,) = compare(run).rows
    assert (row.churn, row.difference) == (None, None)


def test_further_scores_are_means_over_seeds_and_can_be_claimed(tmp_path):
    run = make_folder(tmp_path, PLAIN, ALONE, seeds=(0, 1))
    for seed, bleu in ((0, 20.0), (1, 22.0)):
        add(run, "plain", seed, "a", [0.1] * 4, further={"bleu": bleu})
        for peer in "ab":
            add(run, "alone", seed, peer, [0.1] * 4, further={"bleu": bleu + 1.0 + 0.5 * seed})
    claim = Claim(arm="alone", against="plain", metric="test_bleu", says="")
    comparison = compare(run, declared=[claim])
    assert comparison.rows[0].further == {"bleu": 21.0}
    assert comparison.rows[0].further_sd == {"bleu": pytest.approx(2**0.5)}
    # What an ensemble would translate is not known from its probabilities.
    assert comparison.rows[2].further == {}
    assert comparison.verdicts[0].change() == "+1.2 points"


def test_what_teachers_are_like_at_the_end_is_kept_by_pair(tmp_path):
    run = make_folder(tmp_path, TAUGHT, seeds=(0, 1))
    for seed in (0, 1):
        for peer, teacher in ("ab", "ba"):
            add(run, "taught", seed, peer, [0.1] * 4, teacher_share=1.0)
            last = evaluation(
                agreements={teacher: 0.8 + 0.1 * seed},
                teacher_losses={teacher: 1.0 if peer == "a" else 2.0},
                teacher_ages={teacher: 4.0},
            )
            path = run.peer_path("taught", seed, peer) / results.METRICS
            results.save_evaluations(path, [evaluation(agreements={teacher: 0.1}), last])
    (row,) = compare(run).rows
    assert row.agreements == {"a:b": pytest.approx(0.85), "b:a": pytest.approx(0.85)}
    assert row.teacher_losses == {"a:b": 2.0, "b:a": 1.0}
    assert (row.agreement, row.teacher_loss, row.teacher_age) == (pytest.approx(0.85), 1.5, 4.0)


def test_costs_of_the_peers_are_in_the_row(tmp_path):
    run = make_folder(tmp_path, TAUGHT, seeds=(0, 1))
    for seed in (0, 1):
        costs = {"bytes_published": 100, "bytes_fetched": 300, "bytes_all_reduced": 50, "stall_s": 0.5}
        add(run, "taught", seed, "a", [0.1] * 4, **costs, peak_memory_bytes=1000, test_calibration_error=0.1)
        add(run, "taught", seed, "b", [0.1] * 4, stall_s=1.5, peak_memory_bytes=3000 + seed)
    (row,) = compare(run).rows
    assert (row.bytes_published, row.bytes_fetched, row.bytes_all_reduced) == (5.0, 15.0, 2.5)
    assert (row.stall_s, row.peak_memory_bytes, row.samples) == (1.0, 3001.0, 640.0)
    assert row.test_calibration_error == pytest.approx(0.1)


def test_what_an_earlier_phase_cost_counts_where_the_method_says_so(tmp_path):
    student = replace(TAUGHT, method="two_phase", arm="student")
    teachers = methods.method("two_phase").earlier(student)
    run = make_folder(tmp_path, PLAIN, student, seeds=(0,))
    add(run, "plain", 0, "a", [0.1] * 4, samples=640)
    add(run, "student", 0, "a", [0.1] * 4, samples=640, teacher_samples=1280, teacher_share=1.0, seconds=2.0)
    alone = compare(run).rows[1]
    # Without the teachers it would look cheaper than it is.
    assert (alone.samples, alone.compute, alone.earlier) == (None, None, None)
    for peer in "ab":
        add(run, teachers.label, 0, peer, [0.1] * 4, samples=640, seconds=5.0)
    _, row = compare(run).rows
    assert row.earlier == "student-teachers"
    assert (row.samples, row.seconds) == (640 + 2 * 640, 2.0 + 5.0)
    assert row.compute == pytest.approx((3 * 3 * 640 + 1280) / (3 * 640))


def test_a_previous_model_that_is_there_anyway_costs_nothing(tmp_path):
    run = make_folder(tmp_path, PLAIN, replace(TAUGHT, method="frozen_previous", arm="again"), seeds=(0,))
    add(run, "plain", 0, "a", [0.1] * 4, samples=640)
    add(run, "again", 0, "a", [0.1] * 4, samples=640, teacher_samples=640, teacher_share=1.0)
    row = compare(run).rows[1]
    assert (row.samples, row.earlier, row.compute) == (640, None, pytest.approx(4 / 3))


def test_verdicts_pair_the_seeds_that_both_arms_have(tmp_path):
    run = make_folder(tmp_path, PLAIN, ALONE)
    for seed, right in enumerate((0.5, 0.6, 0.7)):
        add(run, "plain", seed, "a", [0.1] * 4, test_accuracy=right)
    for seed, right in ((1, 0.61), (2, 0.73)):
        for peer in "ab":
            add(run, "alone", seed, peer, [0.1] * 4, test_accuracy=right)
    claim = Claim(arm="alone", against="plain", metric="test_accuracy", says="")
    (verdict,) = compare(run, declared=[claim]).verdicts
    assert verdict.seeds == 2
    assert verdict.difference == pytest.approx(0.02)
    assert verdict.high == pytest.approx(0.02 + 12.706 * 0.01, abs=1e-4)
    (nll,) = compare(run, declared=[replace(claim, metric="test_nll")]).verdicts
    assert nll.difference == 0


def test_churn_verdict_is_a_paired_jackknife_over_seeds(tmp_path):
    run = make_folder(tmp_path, PLAIN, TAUGHT)
    for seed, labels in enumerate(([0.9, 0.9, 0.9, 0.9], [0.1, 0.9, 0.9, 0.9], [0.1, 0.1, 0.1, 0.9])):
        add(run, "plain", seed, "a", labels)
        for peer in "ab":
            add(run, "taught", seed, peer, [0.9] * 4)
    claim = Claim(arm="taught", against="plain", metric="churn", says="")
    (verdict,) = compare(run, declared=[claim]).verdicts
    pairs = {(0, 1): -0.25, (0, 2): -0.75, (1, 2): -0.5}
    mean = sum(pairs.values()) / 3
    pseudo = [3 * mean - 2 * pairs[left] for left in ((1, 2), (0, 2), (0, 1))]
    assert verdict.difference == pytest.approx(mean)
    assert verdict.high - verdict.difference == pytest.approx(
        4.30265 * np.std(pseudo, ddof=1) / 3**0.5, abs=1e-5
    )


def test_claims_on_arms_that_were_not_run_are_left_out(tmp_path):
    run = make_folder(tmp_path, PLAIN, TAUGHT)
    add(run, "plain", 0, "a", [0.1] * 4)
    claim = Claim(arm="taught", against="plain", metric="churn", says="")
    assert compare(run, declared=[claim]).verdicts == ()


def test_claims_that_the_folder_holds_are_judged(tmp_path):
    run = make_folder(tmp_path, PLAIN, TAUGHT)
    for seed, right in enumerate((0.5, 0.6, 0.7)):
        add(run, "plain", seed, "a", [0.1] * 4, test_accuracy=right)
        for peer in "ab":
            changes = {"test_accuracy": right + 0.2 + 0.01 * seed, "teacher_share": 1.0}
            add(run, "taught", seed, peer, [0.1] * 4, **changes)
    claim = Claim(arm="taught", against="plain", metric="test_accuracy", says="", name="S3", expects="ahead")
    write_claims(run.path, [claim])
    (verdict,) = compare(run).verdicts
    assert (verdict.name, verdict.outcome, verdict.holds) == ("S3", "ahead", "holds")


def test_a_seed_counts_only_when_all_its_peers_have_finished(tmp_path):
    run = make_folder(tmp_path, TAUGHT, seeds=(0, 1))
    add(run, "taught", 0, "a", [0.1] * 4)
    add(run, "taught", 0, "b", [0.1] * 4)
    add(run, "taught", 1, "a", [0.1] * 4)
    assert compare(run).rows[0].seeds == 1


def test_a_folder_without_finished_runs_is_refused(tmp_path):
    with pytest.raises(DataMissingError, match="must hold at least one arm that has finished"):
        compare(make_folder(tmp_path, PLAIN))


def test_an_arm_that_never_read_the_test_set_has_no_test_numbers(tmp_path):
    run = make_folder(tmp_path, PLAIN, seeds=(0,))
    add(run, "plain", 0, "a", [0.1] * 4, test_accuracy=None, test_nll=None)
    (run.peer_path("plain", 0, "a") / kept_scores.TARGETS).unlink()
    (row,) = compare(run).rows
    assert (row.test_accuracy, row.test_nll, row.peers_test_accuracy, row.churn) == (None, None, None, None)


def test_a_comparison_is_read_back_as_it_was_written(tmp_path):
    run = make_folder(tmp_path, PLAIN, TAUGHT)
    for seed in (0, 1, 2):
        add(run, "plain", seed, "a", [0.1] * 4)
        for peer in "ab":
            add(run, "taught", seed, peer, [0.2 * (seed + 1)] * 4, teacher_share=1.0)
    claim = Claim(arm="taught", against="plain", metric="test_accuracy", says="why")
    comparison = compare(run, declared=[claim])
    write_comparison(tmp_path / "comparison.json", comparison)
    assert read_comparison(tmp_path / "comparison.json") == comparison


def test_a_comparison_from_before_there_were_further_numbers_is_read(tmp_path):
    run = make_folder(tmp_path, PLAIN, TAUGHT)
    for seed in (0, 1, 2):
        add(run, "plain", seed, "a", [0.1] * 4)
        for peer in "ab":
            add(run, "taught", seed, peer, [0.1] * 4, teacher_share=1.0)
    document = to_document(compare(run))
    del document["metric"]
    added = [name for name in document["rows"][0] if name in LATER]
    assert len(added) == len(LATER)
    for row in document["rows"]:
        for name in added:
            del row[name]
    for verdict in document["verdicts"]:
        for name in ("name", "expects", "margin", "holds"):
            del verdict[name]
    (tmp_path / "comparison.json").write_text(json.dumps(document))
    read = read_comparison(tmp_path / "comparison.json")
    assert (read.metric, read.rows[0].further, read.rows[0].samples) == ("accuracy", {}, None)
    assert read.verdicts[0].holds is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "must be a codistill comparison of format 1"),
        ({"rows": 3}, "rows must be a list, got 3"),
        ({"metric": "speed"}, "metric must be accuracy or nll, got 'speed'"),
        ({"rows": [{}]}, r"rows\[0\] must hold 'arm'"),
    ],
)
def test_a_comparison_that_is_malformed_is_refused_by_field(tmp_path, change, message):
    run = make_folder(tmp_path, PLAIN, seeds=(0,))
    add(run, "plain", 0, "a", [0.1] * 4)
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps({**to_document(compare(run)), **change}))
    with pytest.raises(ValueError, match=message):
        read_comparison(path)
