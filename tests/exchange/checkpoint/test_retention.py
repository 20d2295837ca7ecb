import pytest

from codistill.errors import StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.heartbeat import Heartbeat
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.publisher import Publisher
from codistill.exchange.checkpoint.retention import STILL_S, Retention
from codistill.snapshots.codec import encode
from codistill.testing.clock import FakeClock


def reader(store, peer, order, *, incarnation=0):
    life = Life(run_id="c0ffee", peer=peer, incarnation=incarnation, interval_steps=5, metadata={})
    heart = Heartbeat(store, life)
    heart.show(Progress(), {"a": order, "z": (9, 9)})
    heart.beat()
    return heart


@pytest.fixture
def clock():
    return FakeClock(start_s=1000.0)


@pytest.fixture
def retention(store, clock):
    return Retention(store, peer="a", others=lambda: ["b", "c", "silent"], clock=clock)


def test_nobody_reads_nothing(retention):
    assert retention.spared() == set()


def test_what_others_read_is_spared(store, retention):
    reader(store, "b", (0, 3))
    reader(store, "c", (0, 5))
    assert retention.spared() == {(0, 3), (0, 5)}


def test_what_is_read_of_others_is_none_of_its_business(store, retention):
    life = Life(run_id="c0ffee", peer="b", incarnation=0, interval_steps=5, metadata={})
    heart = Heartbeat(store, life)
    heart.show(Progress(), {"z": (9, 9)})
    heart.beat()
    assert retention.spared() == set()


@pytest.mark.parametrize("state", ["finished", "left"])
def test_readers_that_have_ended_are_not_spared(store, retention, state):
    heart = reader(store, "b", (0, 3))
    assert retention.spared() == {(0, 3)}
    heart.end(state)
    assert retention.spared() == set()


def test_a_reader_that_stands_still_is_spared_for_600_s_only(store, retention, clock):
    heart = reader(store, "b", (0, 3))
    assert retention.spared() == {(0, 3)}
    clock.advance(599.0)
    assert retention.spared() == {(0, 3)}
    clock.advance(1.0)
    assert retention.spared() == set()
    assert STILL_S == 600.0
    heart.beat()  # it was only slow
    assert retention.spared() == {(0, 3)}


def test_a_heart_that_beats_is_spared_for_ever(store, retention, clock):
    heart = reader(store, "b", (0, 3))
    for _ in range(10):
        assert retention.spared() == {(0, 3)}
        clock.advance(599.0)
        heart.beat()


def test_a_new_life_is_a_beat(store, retention, clock):
    reader(store, "b", (0, 3))
    retention.spared()
    clock.advance(599.0)
    reader(store, "b", (0, 3), incarnation=1)
    assert retention.spared() == {(0, 3)}
    clock.advance(599.0)
    assert retention.spared() == {(0, 3)}


def test_a_store_that_does_not_tell_is_raised(store, retention):
    reader(store, "b", (0, 3))
    store.faults.fail("read", key_contains="b/status")
    with pytest.raises(StoreError):
        retention.spared()


def publisher(store, retention):
    life = Life(run_id="c0ffee", peer="a", incarnation=0, interval_steps=5, metadata={})
    return Publisher(store, life, keep=1, retention=retention)


def publish(made, steps, make_model):
    for step in steps:
        made.publish(encode(make_model(float(step)).state_dict()), Progress(step=step), finished=False)


def test_a_publisher_keeps_what_somebody_reads_until_it_is_read(store, retention, make_model):
    heart = reader(store, "b", (0, 0))
    made = publisher(store, retention)
    publish(made, range(3), make_model)
    assert store.list_names("a/snapshots", limit=10) == ["0-0", "0-2"]
    heart.show(Progress(), {"a": (0, 2)})
    heart.beat()
    publish(made, [3], make_model)
    assert store.list_names("a/snapshots", limit=10) == ["0-2", "0-3"]


def test_a_publisher_deletes_nothing_while_it_cannot_tell(store, retention, make_model):
    made = publisher(store, retention)
    reader(store, "b", (0, 0))
    store.faults.fail("read", key_contains="b/status")
    publish(made, range(3), make_model)
    assert store.list_names("a/snapshots", limit=10) == ["0-0", "0-1", "0-2"]
    assert store.count("delete") == 0
