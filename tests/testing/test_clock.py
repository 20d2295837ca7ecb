import pytest

from codistill.testing.clock import FakeClock
from codistill.testing.peers import run_peers


def test_sleep_moves_the_clock_and_is_remembered():
    clock = FakeClock(start_s=100.0)
    clock.sleep(1.5)
    clock.advance(10.0)
    clock.sleep(0)
    assert clock.monotonic() == 111.5
    assert clock.sleeps == [1.5, 0]


@pytest.mark.parametrize("method", ["sleep", "advance"])
def test_it_never_goes_back(method):
    clock = FakeClock()
    with pytest.raises(ValueError, match="seconds must be >= 0, got -1"):
        getattr(clock, method)(-1)
    assert clock.monotonic() == 0


def test_no_sleep_of_a_thread_is_lost():
    clock = FakeClock()
    run_peers(lambda peer: [clock.sleep(1) for _ in range(500)], ["a", "b", "c"])
    assert clock.monotonic() == 1500
    assert len(clock.sleeps) == 1500
