import gc
import os
import subprocess
import sys
import threading

import pytest

from codistill.exchange.checkpoint import background as module
from codistill.exchange.checkpoint.background import Outcome, Threads

TIMEOUT_S = 30.0


@pytest.fixture
def threads():
    made = Threads()
    yield made
    made.stop(TIMEOUT_S)


def names():
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("codistill-"))


class Gate:
    """A job that says when it has begun and ends when it may."""

    def __init__(self):
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self):
        self.has_begun.set()
        assert self.may_end.wait(TIMEOUT_S)
        return "through the gate"


def outcome_of(worker):
    assert worker.wait(TIMEOUT_S)
    return worker.take()


# Workers


def test_an_outcome_is_what_a_job_returned_or_raised():
    assert Outcome.of(lambda: 3) == Outcome(result=3)
    error = Outcome.of(lambda: {}["missing"]).error
    assert isinstance(error, KeyError)
    assert error.__traceback__ is not None


def test_a_job_is_done_in_another_thread(threads):
    worker = threads.worker("publish")
    assert worker.offer(lambda: threading.current_thread().name)
    assert outcome_of(worker).result == "codistill-publish"


def test_no_thread_is_started_before_the_first_job(threads):
    worker = threads.worker("publish")
    assert names() == []
    assert worker.take() is None
    assert worker.wait(0.0)


def test_a_job_that_is_offered_meanwhile_is_refused(threads):
    worker, gate = threads.worker("publish"), Gate()
    assert worker.is_idle
    assert worker.offer(gate)
    assert gate.has_begun.wait(TIMEOUT_S)
    assert not worker.is_idle
    assert worker.offer(lambda: pytest.fail("must not be done")) is False
    assert worker.take() is None
    assert worker.wait(0.0) is False
    gate.may_end.set()
    assert outcome_of(worker).result == "through the gate"


def test_until_its_outcome_is_taken_no_other_job_begins(threads):
    worker = threads.worker("publish")
    worker.offer(lambda: 1)
    assert worker.wait(TIMEOUT_S)
    assert not worker.is_idle
    assert worker.offer(lambda: 2) is False
    assert worker.take().result == 1
    assert worker.take() is None
    assert worker.is_idle
    assert worker.offer(lambda: 3)
    assert outcome_of(worker).result == 3


@pytest.mark.parametrize("error", [ZeroDivisionError("a"), SystemExit(3), KeyboardInterrupt()])
def test_an_error_is_an_outcome_and_the_worker_goes_on(threads, error):
    def fail():
        raise error

    worker = threads.worker("publish")
    worker.offer(fail)
    assert outcome_of(worker).error is error
    worker.offer(lambda: 1)
    assert outcome_of(worker).result == 1


def test_a_busy_worker_does_not_hold_up_another(threads):
    publish, fetch, gate = threads.worker("publish"), threads.worker("fetch"), Gate()
    publish.offer(gate)
    fetch.offer(lambda: 1)
    assert outcome_of(fetch).result == 1
    gate.may_end.set()


# Repeated jobs


def test_a_repeated_job_is_done_again_and_again_until_the_end(threads):
    counted, enough = [], threading.Event()

    def count():
        counted.append(1)
        if len(counted) == 3:
            enough.set()

    threads.repeat("heartbeat", count, 0.001)
    assert enough.wait(TIMEOUT_S)
    assert threads.stop(TIMEOUT_S) == []
    after = len(counted)
    assert names() == []
    assert len(counted) == after


def test_a_repeated_job_waits_for_its_period_first(threads):
    threads.repeat("heartbeat", lambda: pytest.fail("must not be done"), 3600.0)
    assert names() == ["codistill-heartbeat"]
    assert threads.stop(TIMEOUT_S) == []


# The end


def test_stop_ends_all_threads_and_no_job_begins_any_more(threads):
    worker = threads.worker("publish")
    worker.offer(lambda: 1)
    threads.repeat("heartbeat", lambda: None, 3600.0)
    assert threads.stop(TIMEOUT_S) == []
    assert names() == []
    worker.take()
    assert not worker.is_idle
    assert worker.offer(lambda: 2) is False
    assert threads.stop(TIMEOUT_S) == []


def test_stop_lets_a_job_end(threads):
    worker, gate = threads.worker("publish"), Gate()
    worker.offer(gate)
    assert gate.has_begun.wait(TIMEOUT_S)
    gate.may_end.set()
    assert threads.stop(TIMEOUT_S) == []
    assert worker.take().result == "through the gate"


def test_stop_names_what_does_not_end_in_time(threads):
    publish, fetch, gate = threads.worker("publish"), threads.worker("fetch"), Gate()
    publish.offer(gate)
    fetch.offer(lambda: 1)
    assert gate.has_begun.wait(TIMEOUT_S)
    (stuck,) = [thread for thread in threading.enumerate() if thread.name == "codistill-publish"]
    assert stuck.daemon  # an interpreter that exits does not wait for it
    # Long enough for the other to end on a machine that has other work.
    assert threads.stop(1.0) == ["publish"]
    gate.may_end.set()
    stuck.join(TIMEOUT_S)
    assert names() == []


def test_threads_that_nobody_stops_end_with_their_owner():
    threads, ended = Threads(), []
    worker, gate = threads.worker("publish"), Gate()
    gate.may_end.set()
    worker.offer(gate)
    assert worker.wait(TIMEOUT_S)
    threads.repeat("heartbeat", lambda: ended.append(1), 3600.0)
    assert names() == ["codistill-heartbeat", "codistill-publish"]
    del threads
    gc.collect()
    assert names() == []


def test_what_a_job_holds_goes_with_it(threads):
    class Weights:
        pass

    gone = threading.Event()

    def publish(weights):
        return 1

    weights = Weights()
    module.weakref.finalize(weights, gone.set)
    worker = threads.worker("publish")
    worker.offer(lambda weights=weights: publish(weights))
    del weights
    assert worker.wait(TIMEOUT_S)
    gc.collect()
    assert gone.is_set()
    assert worker.take().result == 1


# Other processes


def test_a_fork_leaves_its_parents_threads_alone(threads, monkeypatch):
    worker, gate = threads.worker("publish"), Gate()
    worker.offer(gate)
    assert gate.has_begun.wait(TIMEOUT_S)
    owner = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: owner + 1)
    assert module._end(threads._threads, owner, 0.01) == []
    monkeypatch.undo()
    assert len(threads._threads) == 1
    gate.may_end.set()
    assert outcome_of(worker).result == "through the gate"


HOLDS_ON = """
import threading
from codistill.exchange.checkpoint import background
background._EXIT_S = 0.05
threads, begun = background.Threads(), threading.Event()
threads.repeat("heartbeat", lambda: None, 3600.0)
def hang():
    begun.set()
    threading.Event().wait()
threads.worker("publish").offer(hang)
threads.worker("fetch").offer(lambda: 1)
begun.wait()
print("exits")
"""


@pytest.mark.spawn
def test_an_interpreter_exits_although_a_job_hangs():
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", HOLDS_ON],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "exits\n", "")
