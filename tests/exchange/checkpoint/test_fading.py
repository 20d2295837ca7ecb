import pytest

from codistill.exchange.checkpoint.fading import Fading


def shares(when_stale, ages, *, is_finished=False):
    fading = Fading(max_age_steps=100, when_stale=when_stale)
    return [fading.share(age, is_finished=is_finished) for age in ages]


@pytest.mark.parametrize("when_stale", ["fade", "drop", "keep"])
def test_up_to_its_greatest_age_a_snapshot_counts_fully(when_stale):
    assert shares(when_stale, [0, 1, 99, 100]) == [1.0] * 4


def test_fading_takes_as_many_steps_again():
    assert shares("fade", [101, 125, 150, 199, 200, 201, 10**9]) == pytest.approx(
        [0.99, 0.75, 0.5, 0.01, 0.0, 0.0, 0.0]
    )


def test_dropping_happens_at_once():
    assert shares("drop", [101, 10**9]) == [0.0, 0.0]


def test_keeping_is_for_ever():
    assert shares("keep", [101, 10**9]) == [1.0, 1.0]


@pytest.mark.parametrize("when_stale", ["fade", "drop", "keep"])
def test_a_last_snapshot_never_grows_old(when_stale):
    assert shares(when_stale, [101, 200, 10**9], is_finished=True) == [1.0] * 3


@pytest.mark.parametrize(
    ("when_stale", "gone"),
    [("fade", [False, False, True]), ("drop", [False, True, True]), ("keep", [False] * 3)],
)
def test_gone_is_what_counts_no_more(when_stale, gone):
    fading = Fading(max_age_steps=100, when_stale=when_stale)
    assert [fading.is_gone(age) for age in (100, 101, 200)] == gone
