import math

import pytest
from scipy import stats

from codistill.lab.intervals import interval, pair_pseudo_values


def test_interval_is_that_of_a_one_sample_t_test():
    values = [0.01, 0.03, -0.005, 0.02, 0.012]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert interval(values) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan]])
def test_interval_needs_two_finite_values(values):
    assert interval(values) == (None, None)


def test_pseudo_values_are_those_of_leaving_out_each_seed():
    pairs = [[0, 1, 2, 4], [1, 0, 3, 5], [2, 3, 0, 9], [4, 5, 9, 0]]
    mean = (1 + 2 + 4 + 3 + 5 + 9) / 6
    without = [(3 + 5 + 9) / 3, (2 + 4 + 9) / 3, (1 + 4 + 5) / 3, (1 + 2 + 3) / 3]
    values = pair_pseudo_values(pairs)
    assert values == pytest.approx([4 * mean - 3 * left for left in without])
    assert sum(values) / 4 == pytest.approx(mean)


def test_two_retrainings_leave_no_pair_to_leave_one_out_of():
    assert pair_pseudo_values([[0, 1], [1, 0]]) == []
