import sys

from codistill.watch.sparkline import sparkline

LOWEST, HIGHEST = chr(0x2581), chr(0x2588)


def test_the_least_is_lowest_and_the_greatest_highest():
    line = sparkline([3.0, 1.0, 2.0, 5.0], width=12)
    assert len(line) == 4
    assert (line[1], line[3]) == (LOWEST, HIGHEST)


def test_a_long_course_is_drawn_by_means():
    line = sparkline([float(number) for number in range(100)], width=12)
    assert len(line) <= 12
    assert list(line) == sorted(line)


def test_a_course_that_does_not_move_is_a_level_line():
    line = sparkline([0.5, 0.5, 0.5], width=3)
    assert len(set(line)) == 1
    assert line[0] not in (LOWEST, HIGHEST)


def test_nothing_is_drawn_of_nothing():
    assert sparkline([], width=5) == ""


def test_numbers_as_far_apart_as_can_be_are_drawn():
    most = sys.float_info.max
    assert sparkline([-most, most], width=2) == LOWEST + HIGHEST
