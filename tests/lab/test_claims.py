import math
from dataclasses import replace

import pytest
from scipy import stats

from codistill.lab.claims import Claim, judge, metric, read_claims, write_claims
from codistill.lab.recipes import demo
from codistill.lab.recipes.demo_claims import DEMO_CLAIMS

ACCURACY = Claim(arm="two", against="one", metric="test_accuracy", says="parity")
CHURN = Claim(arm="two", against="one", metric="churn", says="agreement")


def test_verdict_is_ahead_behind_or_no_difference():
    assert judge(ACCURACY, [0.02, 0.03, 0.025]).outcome == "ahead"
    assert judge(ACCURACY, [-0.02, -0.03, -0.025]).outcome == "behind"
    assert judge(ACCURACY, [0.02, -0.03, 0.025]).outcome == "no difference at 95%"


def test_lower_churn_is_ahead():
    assert judge(CHURN, [-0.02, -0.03, -0.025]).outcome == "ahead"
    assert judge(CHURN, [0.02, 0.03, 0.025]).outcome == "behind"


def test_sentences_say_what_was_compared_and_how_surely():
    assert judge(CHURN, [-0.02, -0.03, -0.025]).sentence() == (
        "two: ahead of one on churn (lower is better), -2.50 points (95% interval -3.74 to -1.26, 3 seeds)"
    )
    assert judge(ACCURACY, [-0.02, -0.03, -0.025]).sentence().startswith("two: behind one on test accuracy")
    assert judge(ACCURACY, [0.0, 0.0]).sentence().startswith("two: no difference at 95% from one on")
    assert judge(ACCURACY, [0.01]).sentence() == (
        "two: too few seeds to tell from one on test accuracy, +1.00 points (1 seed)"
    )


def test_an_arm_that_was_not_codistilled_gets_no_verdict():
    verdict = judge(ACCURACY, [0.02, 0.03, 0.025], not_codistilled=["two"])
    assert (verdict.outcome, verdict.low, verdict.high) == ("not codistilled", None, None)
    assert math.isnan(verdict.difference)
    assert (verdict.change(), verdict.interval()) == ("-", "-")
    assert verdict.sentence() == ("two: no verdict against one on test accuracy: two was not codistilled")
    both = judge(CHURN, [0.02, 0.03], not_codistilled=["two", "one"])
    assert both.sentence().endswith("on churn (lower is better): two and one were not codistilled")


def test_claims_are_about_metrics_that_exist():
    with pytest.raises(ValueError, match=r"metric must be one of test_accuracy, .*, got 'speed'"):
        Claim(arm="two", against="one", metric="speed", says="")


@pytest.mark.parametrize("name", ["test_bleu", "test_auc", "test_f1"])
def test_further_scores_can_be_claimed_higher_is_better(name):
    assert metric(name).higher_is_better
    claim = Claim(arm="two", against="one", metric=name, says="")
    assert judge(claim, [0.02, 0.03, 0.025]).outcome == "ahead"


def test_further_scores_are_printed_in_their_own_unit():
    bleu = Claim(arm="two", against="one", metric="test_bleu", says="")
    assert judge(bleu, [0.52, 0.48]).change() == "+0.5 points"
    assert judge(replace(bleu, metric="test_auc"), [0.0011, 0.0013]).change() == "+0.0012"


# An interval of differences in points of accuracy around the middle of each, 0.25 wide on each side.
@pytest.mark.parametrize(
    ("expects", "margin", "middle", "holds"),
    [
        ("ahead", None, 0.3, "holds"),
        ("ahead", None, 0.1, "too noisy to tell"),
        ("ahead", None, -0.1, "too noisy to tell"),
        ("ahead", None, -0.3, "does not hold here"),
        ("ahead", 0.5, 0.3, "holds"),
        ("ahead", 0.5, 0.2, "does not hold here"),
        ("ahead", 0.3, 0.2, "too noisy to tell"),
        ("behind", None, -0.3, "holds"),
        ("behind", None, 0.3, "does not hold here"),
        ("behind", 0.5, -0.2, "does not hold here"),
        ("behind", 0.5, -0.3, "holds"),
        ("parity", 0.5, 0.2, "holds"),
        ("parity", 0.5, -0.2, "holds"),
        ("parity", 0.5, 0.3, "too noisy to tell"),
        ("parity", 0.5, 0.8, "does not hold here"),
        ("parity", 0.5, -0.8, "does not hold here"),
        ("parity", 0.1, 0.0, "too noisy to tell"),
    ],
)
def test_what_was_expected_holds_by_the_interval(expects, margin, middle, holds):
    claim = replace(ACCURACY, expects=expects, margin=margin)
    half = 0.25 / stats.t.ppf(0.975, 3) * 2 * (3 / 4) ** 0.5
    differences = [(middle + side * half) / 100 for side in (-1, 1, -1, 1)]
    verdict = judge(claim, differences)
    assert (verdict.low * 100, verdict.high * 100) == pytest.approx((middle - 0.25, middle + 0.25))
    assert verdict.holds == holds
    # Where less is better, the same with every sign turned.
    assert judge(replace(claim, metric="churn"), [-value for value in differences]).holds == holds


def test_too_few_seeds_are_too_noisy_and_no_teachers_are_no_answer():
    claim = replace(ACCURACY, expects="ahead")
    assert judge(claim, [0.1]).holds == "too noisy to tell"
    assert judge(claim, [0.1, 0.2, 0.3], not_codistilled=["two"]).holds is None
    assert judge(ACCURACY, [0.1, 0.2, 0.3]).holds is None


def test_sentences_say_whether_what_was_expected_holds():
    claim = replace(ACCURACY, name="S3", expects="ahead", margin=0.5)
    assert judge(claim, [0.02, 0.03, 0.025]).sentence() == (
        "S3, two: ahead of one on test accuracy, +2.50 points (95% interval +1.26 to +3.74, 3 seeds); "
        "expected ahead by at least 0.5 points: holds"
    )
    assert (
        judge(replace(claim, expects="parity"), [0.0, 0.0])
        .sentence()
        .endswith("expected parity within 0.5 points: holds")
    )
    assert judge(ACCURACY, [0.1, 0.2]).expectation() == "-"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expects": "parity"}, "margin must be given where parity is expected, got none"),
        ({"margin": 0.5}, "margin must be left out where nothing is expected, got 0.5"),
        ({"expects": "ahead", "margin": -1.0}, r"margin must be a finite number >= 0, got -1\.0"),
        ({"expects": "ahead", "margin": math.nan}, "margin must be a finite number >= 0, got nan"),
    ],
)
def test_a_margin_goes_with_what_is_expected(change, message):
    with pytest.raises(ValueError, match=message):
        replace(ACCURACY, **change)


def test_claims_are_read_back_as_they_were_written(tmp_path):
    claims = (replace(ACCURACY, name="S3", expects="parity", margin=0.5), CHURN)
    write_claims(tmp_path, claims)
    assert read_claims(tmp_path) == claims


def test_a_folder_that_declares_nothing_has_no_claims(tmp_path):
    assert read_claims(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"claims\.json must hold a list of claims, got dict"),
        ('[{"arm": "two"}]', r"claims\.json: \[0\] must hold 'against'"),
        (
            '[{"arm": "a", "against": "b", "metric": "speed", "says": ""}]',
            r"claims\.json: \[0\]: metric must be one of",
        ),
    ],
)
def test_malformed_claims_are_refused_by_field(tmp_path, text, message):
    (tmp_path / "claims.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_claims(tmp_path)


def test_claims_of_the_demo_name_its_arms():
    labels = {arm.label for arm in demo.ARMS} | {"alone_2_ensemble"}
    assert {name for claim in DEMO_CLAIMS for name in (claim.arm, claim.against)} <= labels
    assert DEMO_CLAIMS[-1].metric == "churn"
    assert (DEMO_CLAIMS[-1].arm, DEMO_CLAIMS[-1].against) == ("codistillation_4", "all_reduce")
    pairs = [(claim.arm, claim.against, claim.metric) for claim in DEMO_CLAIMS]
    assert len(set(pairs)) == len(pairs) == 9


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan]])
def test_without_an_interval_there_are_too_few_seeds(values):
    assert judge(ACCURACY, values).outcome == "too few seeds"
