import threading

import pytest

from codistill.exchange.checkpoint.lives import HEARTBEAT_S
from codistill.testing.clock import FakeClock
from codistill.watch import watcher as watcher_module
from codistill.watch.history import SILENT_AFTER_S
from codistill.watch.watcher import Watcher


class BeatingClock(FakeClock):
    """Lets something be done as time goes by."""

    def __init__(self, beat, every_s=HEARTBEAT_S):
        super().__init__()
        self._beat = beat
        self._every_s = every_s

    def sleep(self, seconds):
        super().sleep(seconds)
        if self.monotonic() % self._every_s == 0:
            self._beat()


def until(condition):
    """Wait for another thread, by the events that it sets."""
    paused = threading.Event()
    for _ in range(3000):
        if condition():
            return
        paused.wait(0.01)
    raise AssertionError("it did not come to pass")


def test_it_goes_on_looking_while_it_is_open(store, tell):
    tell("a")
    with Watcher(store, interval_s=0.01) as watcher:
        assert [peer.peer for peer in watcher.view().peers] == ["a"]
        tell("b")
        until(lambda: len(watcher.view().peers) == 2)


def test_a_single_view_waits_until_it_is_known_who_lives(store, tell):
    tell("a")
    tell("b")
    tell("c", state="finished")
    clock = BeatingClock(lambda: tell("a"))
    view = Watcher(store, interval_s=2.0, clock=clock).look_until_settled()
    assert [(peer.state, peer.is_confirmed) for peer in view.peers] == [
        ("running", True),
        ("silent", False),
        ("finished", False),
    ]
    assert clock.monotonic() == SILENT_AFTER_S


def test_a_single_view_waits_for_no_more_than_a_heartbeat_where_all_live(store, tell):
    tell("a")
    clock = BeatingClock(lambda: tell("a"))
    view = Watcher(store, interval_s=2.0, clock=clock).look_until_settled()
    assert (view.peers[0].state, view.peers[0].is_confirmed) == ("running", True)
    assert clock.monotonic() == HEARTBEAT_S


def test_a_single_view_waits_for_nobody_who_has_ended_and_for_no_store_that_is_away(store, tell):
    tell("a", state="left")
    clock = FakeClock()
    watcher = Watcher(store, interval_s=2.0, clock=clock)
    assert watcher.look_until_settled().peers[0].state == "left"
    store.faults.go_away()
    assert watcher.look_until_settled().away_s is not None
    assert clock.sleeps == []


def test_peers_that_come_one_after_the_other_do_not_hold_up_a_single_view(store, tell):
    names = iter(range(1000))
    tell("first")
    clock = BeatingClock(lambda: tell(f"new-{next(names)}"), every_s=1.0)
    view = Watcher(store, interval_s=2.0, clock=clock).look_until_settled()
    assert clock.monotonic() == SILENT_AFTER_S + 1
    assert not all(peer.is_settled for peer in view.peers)


def test_a_store_that_goes_away_and_comes_back_is_said(store, tell):
    tell("a")
    with Watcher(store, interval_s=0.01) as watcher:
        store.faults.go_away()
        until(lambda: watcher.view().away_s is not None)
        assert [peer.peer for peer in watcher.view().peers] == ["a"]
        store.faults.clear()
        until(lambda: watcher.view().came_back == 1)
        assert watcher.view().away_s is None


def test_a_store_that_hangs_holds_up_no_view(store, clock):
    is_asked, may_go_on = threading.Event(), threading.Event()

    def hang():
        is_asked.set()
        may_go_on.wait()

    with Watcher(store, interval_s=0.01, clock=clock) as watcher:
        store.faults.delay("read", hang, times=1)
        assert is_asked.wait(60)
        clock.advance(11.0)
        assert watcher.view().problems == ("The store cannot be read: it does not answer.",)
        may_go_on.set()
        until(lambda: watcher.view().came_back == 1)


def test_a_store_that_hangs_from_the_beginning_can_be_left(store, monkeypatch):
    may_go_on = threading.Event()
    store.faults.delay("read", may_go_on.wait, times=1)
    monkeypatch.setattr(watcher_module, "_PATIENCE_S", 0.01)
    watcher = Watcher(store, interval_s=0.01)
    with watcher:
        view = watcher.view()
        assert (view.run_id, view.peers) == (None, ())
    may_go_on.set()
    until(lambda: not watcher._thread.is_alive())


@pytest.mark.parametrize("error", [OSError("no route"), ValueError("odd answer"), TimeoutError()])
def test_whatever_a_store_raises_is_said(store, watcher, error):
    store.faults.fail("list_names", error=error)
    watcher.look()
    assert watcher.view().away_s is not None


def test_a_bug_is_raised_where_it_is_seen(store):
    with Watcher(store, interval_s=0.01) as watcher:
        store.faults.fail("read", error=ZeroDivisionError("bug"))

        def is_raised():
            try:
                watcher.view()
            except ZeroDivisionError:
                return True
            return False

        until(is_raised)
