import pytest

from codistill.watch.pace import Pace


def seen(*points):
    pace = Pace()
    for now_s, step in points:
        pace.see(step, now_s=now_s)
    return pace


def test_two_changes_are_needed_as_nobody_knows_how_old_the_first_look_is():
    assert seen((0, 0)).steps_per_s(now_s=1) is None
    assert seen((0, 0), (1, 50)).steps_per_s(now_s=1) is None
    assert seen((0, 0), (1, 50), (6, 100)).steps_per_s(now_s=6) == 10.0


def test_a_step_that_is_told_at_intervals_only_does_not_make_the_pace_jump():
    pace = seen((0, 0), (10, 100), (20, 200), (30, 300))
    assert [pace.steps_per_s(now_s=now_s) for now_s in (30, 35, 40, 49)] == [10.0] * 4


def test_the_pace_falls_when_the_next_change_is_overdue():
    pace = seen((0, 0), (10, 100), (20, 200))
    assert pace.steps_per_s(now_s=40) == 10.0
    assert pace.steps_per_s(now_s=130) == pytest.approx(1.0)


def test_only_the_latest_changes_count():
    slow = [(100.0 * i, i) for i in range(10)]
    fast = [(1000.0 + i, 100 * i) for i in range(1, 12)]
    assert seen(*slow, *fast).steps_per_s(now_s=1011) == pytest.approx(100.0)


def test_a_step_that_goes_back_begins_anew():
    pace = seen((0, 0), (1, 500), (2, 1000), (3, 200))
    assert pace.steps_per_s(now_s=3) is None
    pace.see(210, now_s=4)
    pace.see(230, now_s=6)
    assert pace.steps_per_s(now_s=6) == 10.0


def test_changes_at_one_moment_are_no_pace():
    assert seen((0, 0), (1, 10), (1, 20)).steps_per_s(now_s=1) is None
