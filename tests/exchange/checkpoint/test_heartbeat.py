import json
import time

import pytest

from codistill.errors import PeerTakenError, StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.heartbeat import Heartbeat
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.lives import claim_life
from codistill.snapshots.status import Status
from codistill.testing import FakeClock


def heartbeat(store, incarnation=0, clock=time):
    life = Life(run_id="c0ffee", peer="a", incarnation=incarnation, interval_steps=5, metadata={})
    return Heartbeat(store, life, clock=clock)


def status_of(store):
    return Status.from_json(store.read("a/status.json", max_bytes=10**4), key="a/status.json")


def test_beats_count_from_1(store):
    heart = heartbeat(store, 3)
    for expected in (1, 2, 3):
        heart.beat()
        status = status_of(store)
        assert (status.heartbeat, status.incarnation, status.state) == (expected, 3, "running")


@pytest.mark.parametrize("state", ["finished", "left"])
def test_status_tells_how_far_a_peer_is(store, state):
    heart = heartbeat(store, 3)
    heart.beat()
    heart.show(Progress(step=7, samples=70, task_loss=0.25, distillation_loss=float("inf")), {})
    heart.end(state)
    status = status_of(store)
    assert (status.peer, status.incarnation, status.heartbeat) == ("a", 3, 2)
    assert (status.step, status.samples, status.task_loss, status.distillation_loss) == (7, 70, 0.25, None)
    assert status.state == state


def test_status_tells_what_a_student_makes_of_its_teachers(store):
    clock = FakeClock()
    heart = heartbeat(store, clock=clock)
    clock.sleep(90.0)
    told = Progress(weight=0.5, agreement={"b": 0.75}, stall_s=1.5, advice=("Lower weight.",))
    heart.show(told, {"b": (0, 1)}, ages={"b": 40}, quarantined={"d", "c"})
    heart.beat()
    status = status_of(store)
    assert (status.weight, status.agreement, status.ages) == (0.5, {"b": 0.75}, {"b": 40})
    assert (status.stall_s, status.running_s, status.advice) == (1.5, 90.0, ("Lower weight.",))
    assert status.quarantined == ("c", "d")


def test_a_wait_is_told_and_counts_as_stall_until_the_student_goes_on(store):
    clock = FakeClock(100.0)
    heart = heartbeat(store, clock=clock)
    heart.show(Progress(step=10, stall_s=2.0), {})
    clock.sleep(30.0)
    there = 0
    heart.note_wait(lambda: f"others: {there} of 2 are there", waited_s=5.0)
    status = status_of(store)
    assert (status.waits_for, status.stall_s) == ("others: 0 of 2 are there", 7.0)
    clock.sleep(10.0)
    there = 1
    heart.beat()
    status = status_of(store)
    assert (status.waits_for, status.stall_s) == ("others: 1 of 2 are there", 17.0)
    heart.show(Progress(step=11, stall_s=18.0), {})
    heart.beat()
    status = status_of(store)
    assert (status.waits_for, status.stall_s) == (None, 18.0)


def test_who_has_ended_waits_for_nothing(store):
    heart = heartbeat(store)
    heart.note_wait(lambda: "others", waited_s=5.0)
    heart.end("left")
    assert status_of(store).waits_for is None


def test_status_tells_what_a_peer_reads(store):
    heart = heartbeat(store)
    heart.show(Progress(), {"b": (1, 2)})
    heart.beat()
    assert json.loads(store.read("a/status.json", max_bytes=10**4))["reading"] == {"b": [1, 2]}


def test_what_is_about_to_be_read_is_told_before_it_is(store):
    heart = heartbeat(store)
    heart.show(Progress(), {"b": (1, 2), "c": (0, 0)})
    heart.announce("b", (1, 5))
    assert status_of(store).reading == {"b": (1, 5), "c": (0, 0)}
    heart.announce("d", (0, 1))
    assert status_of(store).reading == {"b": (1, 5), "c": (0, 0), "d": (0, 1)}


def test_what_has_been_read_is_told_no_more(store):
    heart = heartbeat(store)
    heart.show(Progress(), {"b": (1, 2)})
    heart.announce("b", (1, 5))
    heart.note_read()
    heart.beat()
    assert status_of(store).reading == {"b": (1, 2)}


def test_show_and_note_read_do_not_write(store):
    heart = heartbeat(store)
    heart.show(Progress(step=1), {"b": (1, 2)})
    heart.note_read()
    assert store.calls == []


def test_it_stops_when_a_later_life_has_the_name(store):
    claim_life(store, "a", after=None)
    heart = heartbeat(store)
    heart.show(Progress(step=9), {})
    heart.beat()
    heart.check_is_ours()
    claim_life(store, "a", after=0)
    heart.beat()
    assert heart.is_superseded
    assert status_of(store).heartbeat == 1
    heart.end("left")  # the status is the other's
    assert (status_of(store).heartbeat, status_of(store).state) == (1, "running")
    with pytest.raises(PeerTakenError, match="'a' has been taken over by another job") as caught:
        heart.check_is_ours()
    assert (caught.value.peer, caught.value.step, caught.value.key) == ("a", 9, "a/lives/1.json")


def test_nothing_is_written_after_the_end(store):
    heart = heartbeat(store)
    heart.end("finished")
    before = store.count("write")
    heart.beat()
    heart.end("left")
    heart.announce("b", (0, 0))
    assert store.count("write") == before == 1
    assert status_of(store).state == "finished"


@pytest.mark.parametrize("verb", ["read", "write"])
def test_a_beat_raises_what_hinders_it_and_may_be_repeated(store, verb):
    heart = heartbeat(store)
    store.faults.fail(verb, times=1)
    with pytest.raises(StoreError):
        heart.beat()
    heart.beat()
    assert status_of(store).state == "running"


def test_errors_of_the_background_are_kept_until_they_are_taken(store):
    heart = heartbeat(store)
    for error in (None, ZeroDivisionError("not the store")):
        store.faults.fail("write", times=1, error=error)
        heart.try_to_beat()
    heart.try_to_beat()
    assert [type(error) for error in heart.take_errors()] == [StoreError, ZeroDivisionError]
    assert heart.take_errors() == []
