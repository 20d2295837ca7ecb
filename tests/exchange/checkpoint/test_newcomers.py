import pytest

from codistill.errors import StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.heartbeat import Heartbeat
from codistill.exchange.checkpoint.newcomers import Newcomers
from codistill.testing.clock import FakeClock

STILL = "has not trained, and its heartbeat does not move"


class Watch:
    """What one peer knows of the newcomers at a store."""

    def __init__(self, store):
        self.fetcher = Fetcher(store, run_id=None, max_bytes=None)
        self.clock = FakeClock()
        self.newcomers = Newcomers(store, self.fetcher, clock=self.clock)

    def look(self, *peers):
        """Return why peers do not count."""
        reasons, errors = self.newcomers.look([self.fetcher.pointer(peer) for peer in peers])
        assert errors == {}
        return reasons


@pytest.fixture
def watch(store):
    return Watch(store)


@pytest.fixture
def begin(store, publish):
    """Return a function that lets a peer publish its first snapshot, and returns its heart."""

    def begin_to_live(peer="b", *, step=0, incarnation=0, finished=False):
        publisher = publish(store, peer, [step], incarnation=incarnation, finished=finished)
        heart = Heartbeat(store, publisher.life)
        heart.show(Progress(step=step), {})
        heart.beat()
        return heart

    return begin_to_live


def test_who_was_there_before_counts_once_its_heartbeat_has_moved(watch, begin):
    heart = begin()
    assert watch.look("b") == watch.look("b") == {"b": STILL}
    heart.beat()
    assert watch.look("b") == watch.look("b") == {}


def test_who_comes_while_one_looks_counts_at_once(watch, begin):
    begin("c")
    watch.look("c")
    begin("b")
    assert watch.look("b", "c") == {"c": STILL}


def test_a_later_life_of_who_was_there_before_counts_at_once(watch, begin):
    begin()
    watch.look("b")
    begin(incarnation=1)
    assert watch.look("b") == {}


def test_whose_heartbeat_stands_still_for_three_beats_counts_no_more_until_it_moves(watch, begin):
    watch.look()
    heart = begin()
    assert watch.look("b") == {}
    watch.clock.advance(14.9)
    assert watch.look("b") == {}
    watch.clock.advance(0.1)
    assert watch.look("b") == {"b": STILL}
    heart.beat()
    assert watch.look("b") == {}


def test_who_has_left_does_not_count(watch, begin):
    watch.look()
    heart = begin()
    assert watch.look("b") == {}
    heart.end("left")
    assert watch.look("b") == {"b": "left before it had trained"}


@pytest.mark.parametrize("how", [{"step": 7}, {"finished": True}], ids=["trained", "final"])
def test_a_snapshot_that_is_trained_or_final_counts_and_is_not_read_again(store, watch, begin, how):
    begin(**how)
    assert watch.look("b") == {}
    before = len(store.calls)
    assert watch.look("b") == {}
    # The pointer, which the test itself reads.
    assert len(store.calls) == before + 1


def test_of_who_has_published_again_nothing_is_read(store, watch, publish):
    publish(store, "b", [0, 5])
    watch.look("b")
    assert store.count("read", key_contains="manifest") == store.count("read", key_contains="status") == 0


def test_who_has_no_status_counts(store, watch, publish):
    publish(store, "b", [0])
    assert watch.look("b") == {}


def test_whether_a_snapshot_that_cannot_be_used_counts_is_left_to_its_reader(store, watch, begin):
    begin()
    store.write("b/snapshots/0-0/manifest.json", b"{}")
    assert watch.look("b") == {}
    store.delete("b/snapshots/0-0/manifest.json")
    assert watch.look("b") == {}


def test_a_store_that_fails_is_named_for_its_peer_and_the_others_are_looked_at(store, watch, begin):
    begin("b")
    begin("c")
    store.faults.fail("read", times=1, key_contains="b/status")
    reasons, errors = watch.newcomers.look([watch.fetcher.pointer(peer) for peer in "bc"])
    assert reasons == {"c": STILL}
    assert [*errors] == ["b"]
    assert isinstance(errors["b"], StoreError)
