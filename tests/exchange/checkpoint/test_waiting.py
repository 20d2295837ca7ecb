import pytest

from codistill.exchange.checkpoint.waiting import wait_until
from codistill.testing.clock import FakeClock


def test_what_is_there_already_is_returned_without_sleeping():
    clock = FakeClock()
    assert wait_until(lambda: "here", timeout_s=1.0, clock=clock) == "here"
    assert clock.sleeps == []


def test_attempts_go_on_until_one_finds_something():
    clock, answers = FakeClock(), iter([None, None, 7])
    assert wait_until(lambda: next(answers), timeout_s=1.0, clock=clock) == 7
    assert len(clock.sleeps) == 2


def test_it_gives_up_after_the_timeout_and_not_later():
    clock = FakeClock(start_s=100.0)
    assert wait_until(lambda: None, timeout_s=3.0, clock=clock) is None
    assert clock.monotonic() == pytest.approx(103.0)


def test_the_last_attempt_comes_when_the_time_is_over():
    clock = FakeClock()
    assert (
        wait_until(lambda: "late" if clock.monotonic() >= 2.0 else None, timeout_s=2.0, clock=clock) == "late"
    )


def test_pauses_grow_to_a_tenth_of_a_second():
    clock = FakeClock()
    wait_until(lambda: None, timeout_s=5.0, clock=clock)
    assert clock.sleeps[0] == pytest.approx(0.0005)
    assert all(later >= earlier for earlier, later in zip(clock.sleeps[:-2], clock.sleeps[1:-1], strict=True))
    assert max(clock.sleeps) == pytest.approx(0.1)


def test_no_time_at_all_allows_one_attempt():
    clock, attempts = FakeClock(), []
    assert wait_until(lambda: attempts.append(1), timeout_s=0.0, clock=clock) is None
    assert attempts == [1]
    assert clock.sleeps == []


def test_a_false_value_is_a_value():
    assert wait_until(lambda: 0, timeout_s=0.0, clock=FakeClock()) == 0


def test_errors_of_an_attempt_reach_the_caller():
    def attempt():
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        wait_until(attempt, timeout_s=1.0, clock=FakeClock())


def test_a_long_wait_is_told_once_and_a_short_one_never():
    for found_s, expected in ((4.9, 0), (5.1, 1), (60.0, 1), (1000.0, 1)):
        clock, told = FakeClock(), []
        wait_until(
            lambda clock=clock, found_s=found_s: clock.monotonic() >= found_s or None,
            timeout_s=100.0,
            clock=clock,
            on_long_wait=told.append,
        )
        assert len(told) == expected
        assert all(5.0 <= waited_s < 5.2 for waited_s in told)
