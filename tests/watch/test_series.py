import sys

import pytest

from codistill.watch.series import Series


def test_a_short_course_is_kept_as_it_is():
    series = Series()
    assert series.means(60) == ()
    for number in range(60):
        series.append(float(number))
    assert series.means(60) == tuple(map(float, range(60)))


def test_a_long_course_is_kept_whole_and_coarser():
    series = Series()
    for number in range(10_000):
        series.append(float(number))
    means = series.means(240)
    assert 100 < len(means) <= 240
    assert means[0] < 100
    assert means[-1] > 9900
    assert list(means) == sorted(means)
    assert len(series.means(12)) <= 12


def test_the_latest_number_is_seen_even_where_many_make_a_mean():
    series = Series()
    for _ in range(240):
        series.append(0.0)
    series.append(8.0)
    assert series.means(1000)[-1] == 8.0


def test_the_largest_numbers_do_not_overflow():
    series = Series()
    for _ in range(500):
        series.append(sys.float_info.max)
    assert series.means(3) == pytest.approx([sys.float_info.max] * 3)
