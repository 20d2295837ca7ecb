import pytest

from codistill.testing.inline_background import InlineBackground


def test_a_job_is_done_when_it_is_offered():
    done = []
    worker = InlineBackground().worker("publish")
    assert worker.is_idle
    assert worker.take() is None
    assert worker.offer(lambda: done.append(1))
    assert done == [1]


def test_an_outcome_is_taken_once_and_until_then_no_job_begins():
    worker = InlineBackground().worker("publish")
    worker.offer(lambda: 3)
    assert not worker.is_idle
    assert worker.offer(lambda: pytest.fail("must not be done")) is False
    assert worker.wait(0.0)
    assert worker.take().result == 3
    assert worker.take() is None
    assert worker.is_idle


def test_an_error_is_an_outcome():
    worker = InlineBackground().worker("publish")
    worker.offer(lambda: {}["missing"])
    outcome = worker.take()
    assert isinstance(outcome.error, KeyError)
    assert outcome.result is None


def test_workers_do_not_share_their_outcomes():
    background = InlineBackground()
    first, second = background.worker("publish"), background.worker("fetch")
    first.offer(lambda: 1)
    assert second.is_idle
    assert second.take() is None


def test_repeated_jobs_are_done_at_every_tick_until_the_end():
    background, done = InlineBackground(), []
    background.repeat("heartbeat", lambda: done.append("a"), 5.0)
    background.repeat("other", lambda: done.append("b"), 1.0)
    assert done == []
    background.tick()
    background.tick()
    assert done == ["a", "b"] * 2
    assert background.stop(1.0) == []
    background.tick()
    assert done == ["a", "b"] * 2
