import gc
import os
import subprocess
import sys
import threading
import warnings

import pytest
import torch
from typing_extensions import override

from codistill.errors import CodistillWarning, PeerTakenError, SnapshotFormatError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint import CheckpointExchange, Membership, load_snapshot
from codistill.exchange.checkpoint.background import Background, Outcome, Worker
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.lives import claim_life
from codistill.exchange.teacher_options import TeacherOptions
from codistill.snapshots.status import Status
from codistill.stores.memory import MemoryStore
from codistill.testing.clock import FakeClock

TIMEOUT_S = 30.0


class PatientWorker(Worker):
    """Does its job when the test says so, or somebody waits for it."""

    def __init__(self):
        self.job = None
        self.outcome = None
        self.hangs = False

    def work(self):
        job, self.job = self.job, None
        self.outcome = Outcome.of(job)

    @property
    @override
    def is_idle(self):
        return self.job is None and self.outcome is None

    @override
    def offer(self, job):
        if not self.is_idle:
            return False
        self.job = job
        return True

    @override
    def take(self):
        outcome, self.outcome = self.outcome, None
        return outcome

    @override
    def wait(self, timeout_s):
        if self.job is not None and not self.hangs:
            self.work()
        return self.job is None


class Patient(Background):
    """Does nothing before the test says so."""

    def __init__(self):
        self.workers = {}
        self.repeated = []

    @override
    def worker(self, name):
        self.workers[name] = PatientWorker()
        return self.workers[name]

    @override
    def repeat(self, name, job, period_s):
        self.repeated.append((name, job, period_s))

    @override
    def stop(self, timeout_s):
        return [name for name, worker in self.workers.items() if not worker.wait(0.0)]


class Job:
    """A peer whose background work is done when the test says so."""

    def __init__(self, join, store, peer="a", **options):
        self.background = Patient()
        self.exchange = join(store, peer, begin=False, **options)
        self.exchange.background = self.background
        self.exchange.begin(Progress())
        self.publishing = self.background.workers["publish"]
        self.looking = self.background.workers["fetch"]

    def step(self, *numbers, **progress):
        for number in numbers:
            self.exchange.step(Progress(step=number, **progress))


def step(exchange, *numbers, **progress):
    for number in numbers:
        exchange.step(Progress(step=number, **progress))


def status_of(store, peer):
    key = f"{peer}/status.json"
    return Status.from_json(store.read(key, max_bytes=10**5), key=key)


def fill(model, value):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


# Publishing


def test_an_interval_that_finds_the_store_busy_is_skipped_and_counted(store, join):
    job = Job(join, store)
    job.step(1, 2, 3)
    assert (job.exchange.counters.publishes, job.exchange.counters.publishes_skipped) == (0, 2)
    job.publishing.work()
    job.step(4)
    assert (job.exchange.counters.publishes, job.exchange.counters.publishes_skipped) == (1, 2)
    assert load_snapshot(store, "a")[1].step == 1
    job.publishing.work()
    assert load_snapshot(store, "a")[1].step == 4


def test_what_is_published_are_the_weights_of_that_step_and_nothing_later(store, join, make_model):
    model = make_model(5.0)
    job = Job(join, store, model=model)
    job.step(1, samples=10, task_loss=0.5)
    fill(model, 77.0)
    job.publishing.work()
    state, info = load_snapshot(store, "a")
    assert (float(state["bias"][0]), info.step, info.samples, info.task_loss) == (5.0, 1, 10, 0.5)


def test_nothing_of_the_store_is_touched_by_a_step_itself(store, join):
    job = Job(join, store)
    before = len(store.calls)
    job.step(*range(1, 6))
    assert len(store.calls) == before


def test_a_snapshot_counts_when_it_can_be_read(store, join):
    job = Job(join, store, interval_steps=2)
    job.step(1, 2)
    assert job.exchange.counters.publishes == 0
    job.publishing.work()
    job.step(3)  # also between intervals
    assert job.exchange.counters.publishes == 1
    assert job.exchange.counters.bytes_published > 0


def test_a_store_that_fails_is_given_time_to_recover(store, join):
    exchange = join(store, "a", peers=["a"])
    store.faults.fail("write", key_contains="snapshots")
    with pytest.warns(CodistillWarning, match="tried again at a later interval") as caught:
        step(exchange, *range(1, 9))
    assert len(caught) == 1
    # Tried at steps 1, 2, 4 and 8.
    assert store.count("write", key_contains="snapshots") == 4
    assert exchange.counters.publishes_skipped == 4
    store.faults.clear()
    step(exchange, *range(9, 13))
    assert (exchange.counters.publishes, load_snapshot(store, "a")[1].step) == (1, 12)


# Teachers


def test_a_teacher_changes_at_a_step_boundary_and_not_before(store, join, publish, weight_of):
    publish(store, "b", [1])
    job = Job(join, store)
    publish(store, "b", [2], incarnation=1)
    job.step(1)
    assert weight_of(job.exchange, "b") == 1.0
    job.looking.work()
    assert weight_of(job.exchange, "b") == 1.0
    assert job.exchange.counters.fetched == []
    job.step(2)
    assert weight_of(job.exchange, "b") == 2.0
    assert job.exchange.counters.fetched == ["b"]
    job.step(3)
    assert job.exchange.counters.fetched == []


def test_an_interval_that_is_still_looking_does_not_look_again(store, join, publish, weight_of):
    job = Job(join, store)
    job.step(1)
    first = job.looking.job
    job.step(2, 3)
    assert job.looking.job is first
    publish(store, "b", [1])
    job.looking.work()
    job.step(4)
    assert weight_of(job.exchange, "b") == 1.0


def test_a_teachers_age_is_counted_from_when_the_student_looked(store, join, publish):
    job = Job(join, store)
    publish(store, "b", [1])
    job.step(1, 2, 3)
    job.looking.work()
    job.step(4)
    assert job.exchange.teachers["b"].age_steps == 3


def test_a_teacher_that_comes_too_late_to_fit_is_refused_once(store, join, publish, make_model):
    exchange = join(store, "a", teachers=TeacherOptions(build=lambda info: make_model()))
    publish(store, "b", [1], model=make_model(classes=7))
    with pytest.warns(CodistillWarning, match="Nothing new was taken from peer 'b' at step 1") as caught:
        step(exchange, 1, 2, 3)
    assert len(caught) == 1
    assert store.count("read", key_contains="b/snapshots/0-0/shard") == 1
    publish(store, "b", [2], incarnation=1)
    step(exchange, 4)
    assert exchange.teachers["b"].step == 2


# Errors


@pytest.mark.parametrize("worker", ["publish", "fetch"])
def test_what_goes_wrong_in_the_background_is_raised_at_the_next_step(store, join, worker):
    job = Job(join, store, interval_steps=10)
    store.faults.fail("write", times=1, error=ZeroDivisionError("a mistake"))
    store.faults.fail("list_names", times=1, error=ZeroDivisionError("a mistake"))
    job.step(10)
    job.background.workers[worker].work()
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        job.step(11)
    job.step(12)


def test_what_goes_wrong_in_a_beat_is_raised_at_the_next_step(store, join):
    exchange = join(store, "a", interval_steps=100)
    store.faults.fail("write", times=1, error=ZeroDivisionError("a mistake"))
    exchange.background.tick()
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        step(exchange, 1)
    step(exchange, 2)


def test_a_beat_that_the_store_refuses_is_warned_of_once(store, join):
    exchange = join(store, "a", interval_steps=100)
    store.faults.fail("write", times=2, key_contains="status")
    for _ in range(2):
        exchange.background.tick()
    with pytest.warns(CodistillWarning, match="Training goes on") as caught:
        step(exchange, 1, 2)
    assert len(caught) == 1
    exchange.background.tick()
    assert status_of(store, "a").step == 2


# The name


def test_the_heart_beats_every_five_seconds_and_tells_how_far_it_is(store, join):
    job = Job(join, store, interval_steps=100)
    ((name, beat, period_s),) = job.background.repeated
    assert (name, period_s) == ("heartbeat", 5.0)
    job.step(7, samples=70)
    before = status_of(store, "a").heartbeat
    beat()
    status = status_of(store, "a")
    assert (status.heartbeat, status.step, status.samples) == (before + 1, 7, 70)


def test_a_peer_whose_name_is_taken_over_stops_and_says_so(store, join):
    exchange = join(store, "a")
    step(exchange, 1)
    claim_life(store, "a", after=0)
    exchange.background.tick()
    before = store.count("write")
    for number in (2, 3):
        with pytest.raises(PeerTakenError, match=r"taken over .*incarnation 0") as caught:
            step(exchange, number)
        assert (caught.value.peer, caught.value.key) == ("a", "a/lives/1.json")
    exchange.close(Progress(step=3), publish=True)
    assert store.count("write") == before


def test_a_publish_that_begins_after_the_name_was_taken_writes_nothing(store, join):
    job = Job(join, store)
    job.step(1)
    claim_life(store, "a", after=0)
    ((_, beat, _),) = job.background.repeated
    beat()
    job.publishing.work()
    assert store.count("write", key_contains="snapshots") == 0


class BeatingClock(FakeClock):
    """While somebody sleeps by it, another peer's heart beats."""

    def __init__(self, exchange):
        super().__init__()
        self.exchange = exchange

    def sleep(self, seconds):
        super().sleep(seconds)
        self.exchange.background.tick()


def test_of_two_jobs_with_one_name_the_second_is_refused(store, join):
    first = join(store, "a")
    second = join(store, "a", begin=False, clock=BeatingClock(first))
    with pytest.raises(PeerTakenError, match="its heartbeat moves"):
        second.begin(Progress())
    assert store.list_names("a/lives", limit=10) == ["0.json"]
    first.background.tick()
    step(first, 1)
    assert status_of(store, "a").incarnation == 0


def test_a_job_that_was_killed_makes_room_for_its_next_life(store, join):
    killed = join(store, "a")
    second = join(store, "a")
    assert second.clock.sleeps == [5.0] * 3
    step(second, 1)
    assert status_of(store, "a").incarnation == 1
    killed.background.tick()  # it was only asleep
    with pytest.raises(PeerTakenError):
        step(killed, 1)


def test_a_job_that_was_closed_makes_room_at_once(store, join):
    join(store, "a").close(Progress(), publish=False)
    assert join(store, "a").clock.sleeps == []


# Growing old


@pytest.mark.parametrize(
    ("when_stale", "shares"),
    [
        ("fade", [1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]),
        ("drop", [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        ("keep", [1.0] * 7),
    ],
)
def test_a_teacher_whose_peer_is_silent_counts_less_and_less(store, join, publish, when_stale, shares):
    publish(store, "b", [1])
    membership = Membership(max_age_steps=4, when_stale=when_stale)
    exchange = join(store, "a", peers=["a", "b"], membership=membership)
    seen = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(3, 10):
            step(exchange, number)
            seen.append(exchange.teachers["b"].share)
    assert seen == shares
    said = [str(warning.message) for warning in caught]
    assert len(said) == (when_stale != "keep")
    assert all("Peer 'b' has published nothing new for 5 steps" in message for message in said)


def test_a_peer_that_has_come_back_counts_fully_and_may_fall_silent_again(store, join, publish):
    publish(store, "b", [1])
    exchange = join(store, "a", peers=["a", "b"], membership=Membership(max_age_steps=2))
    for life in (1, 2):
        begin = 10 * life
        with pytest.warns(CodistillWarning, match="counts less and less"):
            step(exchange, *range(begin, begin + 4))
        publish(store, "b", [life], incarnation=life)
        step(exchange, begin + 5)
        assert exchange.teachers["b"].share == 1.0


def test_whoever_takes_part_is_let_go_when_it_counts_no_more(store, join, publish):
    publish(store, "b", [1])
    publish(store, "c", [1])
    exchange = join(store, "a", membership=Membership(max_age_steps=2, when_stale="drop"))
    assert list(exchange.teachers) == ["c"]
    step(exchange, 1)
    publish(store, "b", [2], incarnation=1)
    step(exchange, 2)
    with pytest.warns(CodistillWarning, match="Peer 'c' has published nothing new for 3 steps"):
        step(exchange, 3)
    # The ring has closed over c, which has been silent for longer than it may.
    assert list(exchange.teachers) == ["b"]
    publish(store, "c", [2], incarnation=1)
    step(exchange, 4)
    assert list(exchange.teachers) == ["c"]


def test_a_finished_peer_is_never_let_go(store, join, publish):
    publish(store, "b", [1], finished=True)
    exchange = join(store, "a", membership=Membership(max_age_steps=2, when_stale="drop"))
    step(exchange, *range(1, 10))
    assert exchange.teachers["b"].share == 1.0


# Quarantine


def test_a_snapshot_with_nan_is_quarantined_and_a_good_one_lets_it_out(store, join, publish, make_model):
    publish(store, "b", [1])
    exchange = join(store, "a")
    bad = make_model(2.0)
    with torch.no_grad():
        bad.bias[1] = torch.nan
    publish(store, "b", [2], model=bad, incarnation=1)
    with pytest.warns(CodistillWarning, match="'b' is not learnt from since step 1: 'bias' of its") as caught:
        step(exchange, 1, 2)
    assert len(caught) == 1
    info = exchange.teachers["b"]
    assert (info.share, info.is_quarantined, info.step) == (0.0, True, 1)
    assert store.count("read", key_contains="b/snapshots/1-0/shard") == 1
    publish(store, "b", [3], incarnation=2)
    step(exchange, 3)
    info = exchange.teachers["b"]
    assert (info.share, info.is_quarantined, info.step) == (1.0, False, 3)
    publish(store, "b", [4], model=bad, incarnation=3)
    with pytest.warns(CodistillWarning, match="'b' is not learnt from since step 4"):
        step(exchange, 4)


def test_a_newcomer_with_nan_makes_no_teacher(store, join, publish, make_model):
    publish(store, "b", [1], model=make_model(float("nan")))
    with pytest.warns(CodistillWarning, match="'b' is not learnt from since step 0"):
        exchange = join(store, "a")
    assert dict(exchange.teachers) == {}
    publish(store, "b", [2], incarnation=1)
    step(exchange, 1)
    assert exchange.teachers["b"].share == 1.0


def test_predictions_that_are_no_numbers_are_zeros_and_quarantined_every_tenth_step(
    store, join, publish, make_model
):
    publish(store, "b", [1], model=make_model(3e38))
    exchange = join(store, "a")
    for number in range(1, 10):
        (prediction,) = exchange.predict(torch.ones(2, 4), None).peers
        assert prediction.share == 0.0
        assert torch.equal(prediction.target.logits, torch.zeros(2, 3))
        step(exchange, number)
        assert not exchange.teachers["b"].is_quarantined
    with pytest.warns(
        CodistillWarning, match="'b' is not learnt from since step 10: its predictions are not"
    ) as caught:
        step(exchange, 10)
    assert len(caught) == 1
    assert exchange.teachers["b"].is_quarantined
    assert exchange.predict(torch.ones(2, 4), None).peers == ()
    step(exchange, *range(11, 31))
    publish(store, "b", [2], incarnation=1)
    step(exchange, 31)
    assert (exchange.teachers["b"].is_quarantined, exchange.teachers["b"].share) == (False, 1.0)


def test_a_teacher_that_is_far_behind_for_three_intervals_is_quarantined(store, join):
    other, exchange = join(store, "b"), join(store, "a")
    step(other, 1, task_loss=9.0)
    step(exchange, 1, task_loss=1.0)
    step(exchange, 2, 3, task_loss=1.0)
    assert not exchange.teachers["b"].is_quarantined
    with pytest.warns(
        CodistillWarning, match="the task loss of its last snapshot, 9, has been over twice this peer's, 1"
    ) as caught:
        step(exchange, 4, task_loss=1.0)
    assert len(caught) == 1
    assert (exchange.teachers["b"].share, exchange.teachers["b"].is_quarantined) == (0.0, True)
    # What is no better is not even downloaded.
    step(other, 2, task_loss=8.0)
    step(exchange, 5, task_loss=1.0)
    assert exchange.teachers["b"].is_quarantined
    assert store.count("read", key_contains="b/snapshots/0-1/shard") == 0
    step(other, 3, task_loss=1.5)
    step(exchange, 6, task_loss=1.0)
    assert (exchange.teachers["b"].share, exchange.teachers["b"].is_quarantined) == (1.0, False)


# The end


def test_close_finishes_the_publish_that_is_under_way(store, join, make_model):
    model = make_model(5.0)
    job = Job(join, store, model=model)
    job.step(1)
    fill(model, 6.0)
    job.exchange.close(Progress(step=2), publish=True)
    state, info = load_snapshot(store, "a")
    assert (info.step, info.sequence, info.finished, float(state["bias"][0])) == (2, 1, True, 6.0)
    fetcher = Fetcher(store, run_id=None, max_bytes=None)
    before = fetcher.manifest(fetcher.manifest(fetcher.pointer("a").manifest).previous)
    assert (before.step, before.finished) == (1, False)
    assert (job.exchange.counters.publishes, status_of(store, "a").state) == (2, "finished")


def test_close_without_publish_finishes_it_too(store, join):
    job = Job(join, store)
    job.step(1)
    job.exchange.close(Progress(step=2), publish=False)
    info = load_snapshot(store, "a")[1]
    assert (info.step, info.finished, status_of(store, "a").state) == (1, False, "left")


def test_close_gives_up_what_does_not_end_in_time(store, join):
    job = Job(join, store)
    job.step(1)
    job.publishing.hangs = True
    message = r"not answered within 2 s; what peer 'a' was doing there has been given up \(publish\)"
    with pytest.warns(CodistillWarning, match=message) as caught:
        job.exchange.close(Progress(step=2), publish=True, timeout_s=2.0)
    assert len(caught) == 1
    assert "latest.json" not in store.list_names("a", limit=10)


def test_close_raises_what_went_wrong_in_the_publish_before(store, join):
    job = Job(join, store)
    store.faults.fail("write", times=1, error=ZeroDivisionError("a mistake"))
    job.step(1)
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        job.exchange.close(Progress(step=2), publish=True)


class Hanging(MemoryStore):
    """Does not answer writes of snapshots until it may."""

    def __init__(self):
        super().__init__()
        self.is_asked, self.may_answer = threading.Event(), threading.Event()

    @override
    def _write(self, key, content):
        if "snapshots" in key:
            self.is_asked.set()
            assert self.may_answer.wait(TIMEOUT_S)
        super()._write(key, content)


def test_close_leaves_a_thread_that_hangs_in_the_store_and_says_so(make_model):
    store = Hanging()
    exchange = CheckpointExchange(store, peer="a", interval_steps=1)
    exchange.bind(make_model(), None)
    exchange.begin(Progress())
    step(exchange, 1)
    assert store.is_asked.wait(TIMEOUT_S)
    message = r"not answered within 0\.01 s; .* has been given up \(publish\)"
    with pytest.warns(CodistillWarning, match=message) as caught:
        exchange.close(Progress(step=1), publish=True, timeout_s=0.01)
    assert len(caught) == 1
    exchange.close(Progress(step=1), publish=True)
    (left,) = [thread for thread in threading.enumerate() if thread.name.startswith("codistill-")]
    assert left.name == "codistill-publish"
    store.may_answer.set()
    left.join(TIMEOUT_S)
    assert not left.is_alive()


# Real threads


def learn_in_threads(store, make_model):
    """Return two peers that train at once, each of which has come to teach the other."""
    exchanges = [CheckpointExchange(store, peer=peer, interval_steps=2) for peer in "ab"]
    for value, exchange in enumerate(exchanges):
        exchange.bind(make_model(float(value)), None)
        exchange.begin(Progress())
    for number in range(1, 21):
        for exchange in exchanges:
            step(exchange, number, samples=number)
            assert exchange._life.pace._publishing.wait(TIMEOUT_S)
            assert exchange._life.pace._looking.wait(TIMEOUT_S)
        if all(exchange.teachers for exchange in exchanges):
            break
    return exchanges


def test_peers_in_threads_teach_each_other(store, make_model, weight_of):
    first, second = learn_in_threads(store, make_model)
    assert weight_of(first, "b") == 1.0
    assert weight_of(second, "a") == 0.0
    assert store.count("write", key_contains="a/snapshots") >= 2
    for exchange in (first, second):
        exchange.close(Progress(step=30, samples=30), publish=True)
    assert not any(thread.name.startswith("codistill-") for thread in threading.enumerate())
    for peer in "ab":
        assert load_snapshot(store, peer)[1].finished
        assert status_of(store, peer).state == "finished"


def test_an_exchange_that_nobody_closes_ends_its_threads_when_it_is_collected(store, make_model):
    exchanges = learn_in_threads(store, make_model)
    assert any(thread.name == "codistill-heartbeat" for thread in threading.enumerate())
    del exchanges
    gc.collect()
    assert not any(thread.name.startswith("codistill-") for thread in threading.enumerate())


def test_a_start_that_failed_leaves_no_thread(store, make_model):
    exchange = CheckpointExchange(
        store, peer="a", membership=Membership(start_with_peers=1, start_timeout_s=0.001)
    )
    exchange.bind(make_model(), None)
    with pytest.raises(TimeoutError):
        exchange.begin(Progress())
    assert not any(thread.name.startswith("codistill-") for thread in threading.enumerate())
    assert status_of(store, "a").state == "left"


def test_a_start_that_was_repeated_ends_its_threads_too(store, make_model, publish):
    exchange = CheckpointExchange(
        store, peer="a", membership=Membership(start_with_peers=1, start_timeout_s=0.001)
    )
    exchange.bind(make_model(9.0), None)
    with pytest.raises(TimeoutError):
        exchange.begin(Progress())
    publish(store, "b", [0])
    exchange.begin(Progress())
    assert any(thread.name == "codistill-heartbeat" for thread in threading.enumerate())
    del exchange
    gc.collect()
    assert not any(thread.name.startswith("codistill-") for thread in threading.enumerate())


FORKS = """
import atexit, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: it is what is tested
calls = []
owner = os.getpid()
def tell():
    if os.getpid() != owner:
        print("child leaves", len(store.calls) - before, flush=True)
atexit.register(tell)
import torch
from codistill import CheckpointExchange, Codistiller
from codistill.stores import MemoryStore
from codistill.testing import FaultyStore
store = FaultyStore(MemoryStore())
model = torch.nn.Linear(4, 3)
codistiller = Codistiller(model, CheckpointExchange(store, peer="a", interval_steps=1))
inputs = torch.zeros(2, 4)
codistiller.loss(model(inputs), inputs)
codistiller.step()
before = len(store.calls)
child = os.fork()
if child == 0:
    before = len(store.calls)
    for use in (lambda: codistiller.loss(inputs[:, :3], inputs), codistiller.step, codistiller.close):
        try:
            use()
            print("done", flush=True)
        except RuntimeError as error:
            print(str(error)[:42], flush=True)
    sys.exit(0)
print("child exits with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
codistiller.close()
print("parent closes", flush=True)
"""


@pytest.mark.spawn
def test_a_fork_of_a_process_that_trains_neither_uses_nor_ends_its_parents_peer():
    done = subprocess.run(
        [sys.executable, "-c", FORKS],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Peer 'a' belongs to the process that made ",
        "Peer 'a' belongs to the process that made ",
        "done",
        "child leaves 0",
        "child exits with 0",
        "parent closes",
    ]


class LateJoiner(FakeClock):
    """A clock by which, while somebody waits, hearts beat, and after a while a peer publishes."""

    def __init__(self, background, sleeps, publish_late):
        super().__init__()
        self._background, self._sleeps_left, self._publish_late = background, sleeps, publish_late

    @override
    def sleep(self, seconds):
        super().sleep(seconds)
        self._background.tick()
        self._sleeps_left -= 1
        if self._sleeps_left == 0:
            self._publish_late()


def test_the_heart_beats_while_others_are_waited_for(store, join, publish):
    exchange = join(store, "a", begin=False, membership=Membership(start_with_peers=1))
    seen = []

    def publish_late():
        seen.append(status_of(store, "a").heartbeat)
        publish(store, "b", [0])

    exchange.clock = LateJoiner(exchange.background, 20, publish_late)
    exchange.begin(Progress())
    assert seen[0] >= 20
    assert list(exchange.teachers) == ["b"]


def test_who_loses_its_name_while_it_waits_for_others_is_told(store, join):
    exchange = join(store, "a", begin=False, membership=Membership(start_with_peers=1))
    exchange.clock = LateJoiner(exchange.background, 3, lambda: claim_life(store, "a", after=0))
    with pytest.raises(PeerTakenError, match="taken over"):
        exchange.begin(Progress())


def test_a_bad_teacher_that_publishes_at_every_interval_is_quarantined(store, join, make_model):
    other, exchange = join(store, "b"), join(store, "a")
    step(other, 1, task_loss=50.0)
    for number in (1, 2, 3):
        step(exchange, number, task_loss=1.0)
        step(other, number + 1, task_loss=50.0)
    with pytest.warns(
        CodistillWarning, match="'b' is not learnt from since step 4: the task loss of its last snapshot, 50"
    ):
        step(exchange, 4, task_loss=1.0)
    for number in (5, 6):
        step(other, number, task_loss=50.0)
        step(exchange, number, task_loss=1.0)
    assert exchange.teachers["b"].is_quarantined
    step(other, 9, task_loss=1.0)
    step(exchange, 7, task_loss=1.0)
    assert not exchange.teachers["b"].is_quarantined


def test_a_snapshot_that_build_refuses_lets_nobody_out_of_quarantine(store, join, publish, make_model):
    def build(info):
        return make_model(classes=3)

    exchange = join(store, "a", teachers=TeacherOptions(build=build))
    publish(store, "b", [1])
    step(exchange, 1)
    exchange._life.classroom.quarantined = frozenset({"b"})
    exchange._life.pace._quarantine.put("b", "a test")
    publish(store, "b", [2], model=make_model(2.0, classes=7), incarnation=1)
    with pytest.warns(CodistillWarning, match="does not fit"):
        step(exchange, 2)
    assert exchange.teachers["b"].is_quarantined


def test_a_joiner_that_build_does_not_know_is_refused_and_training_goes_on(store, join, publish):
    def build(info):
        raise KeyError(info.metadata["arch"])

    exchange = join(store, "a", teachers=TeacherOptions(build=build))
    publish(store, "b", [1], metadata={"arch": "large"})
    with pytest.warns(
        CodistillWarning, match="build made no module for peer 'b' at step 1: KeyError: 'large'"
    ):
        step(exchange, 1)
    step(exchange, 2, 3)
    assert dict(exchange.teachers) == {}


def test_a_student_that_cannot_be_copied_is_refused_at_the_start(store, join):
    student = torch.nn.Linear(4, 3)
    student.cache = student(torch.zeros(1, 4))
    with pytest.raises(TypeError, match="must allow copy"):
        join(store, "a", model=student)


def test_an_owner_that_was_followed_does_not_move_the_pointer_back(store, join):
    job = Job(join, store)
    job.step(1)
    job.publishing.work()
    job.step(2)
    claim_life(store, "a", after=0)
    before = store.read("a/latest.json", max_bytes=4096)
    job.publishing.work()
    assert store.read("a/latest.json", max_bytes=4096) == before
    assert store.list_names("a/snapshots", limit=9) == ["0-0"]
    with pytest.warns(CodistillWarning, match="taken over"):
        job.exchange.close(Progress(step=2), publish=True)
    assert store.read("a/latest.json", max_bytes=4096) == before
    assert status_of(store, "a").state == "running"


def test_a_mistake_in_the_heart_is_raised_at_close(store, join):
    exchange = join(store, "a")
    store.faults.fail("write", key_contains="status", error=ValueError("a mistake"), times=1)
    exchange.background.tick()
    with pytest.raises(ValueError, match="a mistake"):
        exchange.close(Progress(), publish=False)


def test_state_of_another_rank_is_refused_by_rank_0(store, join):
    exchange = join(store, "a")
    step(exchange, 1)
    state = exchange.state_dict() | {"is_of_rank_0": False}
    with pytest.raises(ValueError, match="state must be what rank 0 saved"):
        join(store, "a", state=state)


class UnequalRanks:
    """Two ranks, of which the other is at another step."""

    rank, size = 0, 1

    def connect(self):
        pass

    def maximum(self, numbers):
        return [max(number, other) for number, other in zip(numbers, (7, -7), strict=True)]


def test_ranks_of_which_some_have_not_loaded_their_state_are_refused(store, join, make_model):
    exchange = join(store, "c", begin=False)
    exchange._ranks = UnequalRanks()
    with pytest.raises(ValueError, match="must be at one step, got steps from 0 to 7"):
        exchange.begin(Progress())


def test_fading_is_said_while_the_store_is_away(store, join, publish):
    publish(store, "b", [1])
    exchange = join(store, "a", membership=Membership(max_age_steps=3))
    store.faults.fail("list_names")
    with pytest.warns(CodistillWarning) as caught:
        step(exchange, *range(1, 6))
    assert any("'b' has published nothing new" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("way", ["state", "rejoin"])
def test_a_peer_comes_back_over_its_own_damaged_pointer(store, join, way):
    first = join(store, "a")
    step(first, 1, 2)
    state = first.state_dict()
    first.close(Progress(step=2), publish=False)
    store.write("a/latest.json", b"")
    options = {"state": state} if way == "state" else {"membership": Membership(rejoin=True)}
    again = join(store, "a", **options)
    step(again, 3)
    other = join(store, "b")
    assert (other.teachers["a"].incarnation, other.teachers["a"].step) == (1, 3)


def test_a_new_job_does_not_write_over_a_damaged_pointer(store, join):
    store.write("a/latest.json", b"")
    with pytest.raises(SnapshotFormatError, match="pointer"):
        join(store, "a")
