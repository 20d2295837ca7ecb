import math

import pytest
from scipy import stats

from codistill.lab.claims import DEMO_CLAIMS, Claim, interval, judge, pair_pseudo_values
from codistill.lab.recipes import demo

ACCURACY = Claim(arm="two", against="one", metric="test_accuracy", says="parity")
CHURN = Claim(arm="two", against="one", metric="churn", says="agreement")


def test_interval_is_that_of_a_one_sample_t_test():
    values = [0.01, 0.03, -0.005, 0.02, 0.012]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert interval(values) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan]])
def test_interval_needs_two_finite_values(values):
    assert interval(values) == (None, None)
    assert judge(ACCURACY, values).outcome == "too few seeds"


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


def test_pseudo_values_are_those_of_leaving_out_each_seed():
    pairs = [[0, 1, 2, 4], [1, 0, 3, 5], [2, 3, 0, 9], [4, 5, 9, 0]]
    mean = (1 + 2 + 4 + 3 + 5 + 9) / 6
    without = [(3 + 5 + 9) / 3, (2 + 4 + 9) / 3, (1 + 4 + 5) / 3, (1 + 2 + 3) / 3]
    values = pair_pseudo_values(pairs)
    assert values == pytest.approx([4 * mean - 3 * left for left in without])
    assert sum(values) / 4 == pytest.approx(mean)


def test_two_retrainings_leave_no_pair_to_leave_one_out_of():
    assert pair_pseudo_values([[0, 1], [1, 0]]) == []


def test_claims_are_about_metrics_that_exist():
    with pytest.raises(ValueError, match="metric must be one of test_accuracy, test_nll, churn, got 'speed'"):
        Claim(arm="two", against="one", metric="speed", says="")


def test_claims_of_the_demo_name_its_arms():
    labels = {arm.label for arm in demo.ARMS} | {"alone_2_ensemble"}
    assert {name for claim in DEMO_CLAIMS for name in (claim.arm, claim.against)} <= labels
    assert DEMO_CLAIMS[-1].metric == "churn"
    assert (DEMO_CLAIMS[-1].arm, DEMO_CLAIMS[-1].against) == ("codistillation_4", "all_reduce")
    pairs = [(claim.arm, claim.against, claim.metric) for claim in DEMO_CLAIMS]
    assert len(set(pairs)) == len(pairs) == 9
