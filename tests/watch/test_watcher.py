import threading

import pytest

from codistill.watch import watcher as watcher_module
from codistill.watch.watcher import Watcher


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
