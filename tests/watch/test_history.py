from codistill.errors import StoreError
from codistill.exchange.checkpoint.lives import HEARTBEAT_S, open_run
from codistill.testing.clock import FakeClock
from codistill.watch.history import SILENT_AFTER_S, History
from codistill.watch.observation import observe


def test_a_peer_that_says_it_runs_is_believed_once_its_heartbeat_moves(tell, look):
    tell("a", step=1)
    _, peers = look()
    assert (peers["a"].state, peers["a"].is_confirmed) == ("running", False)
    tell("a", step=1)
    _, peers = look(2.0)
    assert (peers["a"].state, peers["a"].is_confirmed) == ("running", True)


def test_a_heartbeat_that_stands_still_makes_a_peer_silent_and_one_that_moves_ends_it(tell, look):
    tell("a")
    look()
    tell("a")
    look(2.0)
    _, peers = look(SILENT_AFTER_S - 1)
    assert peers["a"].state == "running"
    _, peers = look(2.0)
    assert (peers["a"].state, peers["a"].silent_s) == ("silent", SILENT_AFTER_S + 1)
    tell("a")
    _, peers = look(2.0)
    assert (peers["a"].state, peers["a"].silent_s) == ("running", None)


def test_a_peer_that_had_died_before_the_watch_began_is_found_silent(tell, look):
    tell("a")
    look()
    _, peers = look(SILENT_AFTER_S)
    assert (peers["a"].state, peers["a"].is_confirmed) == ("silent", False)


def test_a_peer_that_waits_for_others_says_so_and_can_fall_silent(tell, look):
    tell("a", waits_for="the first snapshots of others")
    look()
    tell("a", waits_for="the first snapshots of others")
    _, peers = look(2.0)
    assert (peers["a"].state, peers["a"].waits_for) == ("waiting", "the first snapshots of others")
    _, peers = look(SILENT_AFTER_S)
    assert (peers["a"].state, peers["a"].waits_for) == ("silent", None)
    tell("a")
    _, peers = look(2.0)
    assert (peers["a"].state, peers["a"].waits_for) == ("running", None)


def test_finished_and_left_are_the_peer_s_own_words_and_never_silent(tell, look):
    tell("a", state="finished")
    tell("b", state="left")
    look()
    _, peers = look(1000.0)
    assert [peers[peer].state for peer in "ab"] == ["finished", "left"]


def test_time_in_which_the_store_was_away_is_one_missed_beat_at_most(store, tell, look):
    tell("a")
    look()
    tell("a")
    look(5.0)
    store.faults.go_away()
    view, peers = look(5.0)
    view, peers = look(95.0)
    assert view.away_s == 100.0
    assert "The store cannot be read: The test lets read" in view.problems[0]
    assert peers["a"].state == "running"
    store.faults.clear()
    view, peers = look(5.0)
    assert (view.away_s, view.came_back, view.problems) == (None, 1, ())
    assert peers["a"].state == "running"
    _, peers = look(SILENT_AFTER_S)
    assert (peers["a"].state, peers["a"].silent_s) == ("silent", HEARTBEAT_S + SILENT_AFTER_S)


def test_a_store_that_is_always_slow_does_not_hide_a_silent_peer(store, tell):
    tell("a")
    history = History("runs/x", now_s=0.0)
    states = []
    for number in range(5):
        history.begin_look(now_s=20.0 * number)
        history.take(observe(store), now_s=20.0 * number + 12.0)
        states.append(history.view(now_s=20.0 * number + 12.0).peers[0].state)
    assert states == ["running", "running", "running", "silent", "silent"]


def test_a_store_that_is_away_from_the_beginning_is_waited_for(store, tell, look):
    store.faults.go_away()
    view, _ = look(3.0)
    assert (view.run_id, view.away_s, view.peers) == (None, 3.0, ())
    store.faults.clear()
    tell("a")
    view, peers = look(1.0)
    assert (view.came_back, list(peers)) == (1, ["a"])


def test_a_store_that_does_not_answer_is_away(store):
    history = History("runs/x", now_s=0.0)
    history.take(observe(store), now_s=1.0)
    history.begin_look(now_s=3.0)
    assert history.view(now_s=12.0).away_s is None
    view = history.view(now_s=14.0)
    assert view.away_s == 13.0
    assert view.problems == ("The store cannot be read: it does not answer.",)
    history.take(observe(store), now_s=20.0)
    view = history.view(now_s=20.0)
    assert (view.away_s, view.came_back) == (None, 1)


def test_what_hinders_reading_can_be_printed():
    history = History("runs/\x1b[2Jx", now_s=0.0)
    history.fail(StoreError("gone\x1b]0;x\x07"))
    view = history.view(now_s=1.0)
    assert view.store.isprintable()
    assert view.problems[0].isprintable()
    history.fail(TimeoutError())
    assert "TimeoutError" in history.view(now_s=1.0).problems[0]


def test_peers_come_and_go(store, tell, look):
    tell("b")
    _, peers = look()
    assert list(peers) == ["b"]
    tell("a")
    _, peers = look(2.0)
    assert list(peers) == ["a", "b"]
    store.delete("b/status.json")
    _, peers = look(2.0)
    assert list(peers) == ["a"]


def test_an_unreadable_status_leaves_what_was_read_last(store, tell, look):
    tell("a", step=70, task_loss=0.5)
    look()
    store.write("a/status.json", b"{")
    _, peers = look(2.0)
    assert (peers["a"].state, peers["a"].step, peers["a"].task_loss) == ("unreadable", 70, 0.5)
    assert "a/status.json" in peers["a"].problems[0]
    tell("a", step=80)
    _, peers = look(2.0)
    assert (peers["a"].state, peers["a"].step, peers["a"].problems) == ("running", 80, ())


def test_a_status_that_is_gone_is_said(store, tell, look):
    tell("a", step=70)
    store.write("a/lives/0.json", b"{}")
    look()
    store.delete("a/status.json")
    _, peers = look(2.0)
    assert (peers["a"].state, peers["a"].step) == ("unreadable", 70)
    assert peers["a"].problems == ("Its status was there, and is gone.",)


def test_a_peer_that_has_told_nothing_yet_is_unknown(store, look):
    store.write("a/lives/0.json", b"{}")
    _, peers = look()
    assert (peers["a"].state, peers["a"].step, peers["a"].problems) == ("unknown", None, ())


def test_rates_and_courses_are_of_what_was_seen(tell, look):
    for number in range(5):
        tell("a", step=50 * number, task_loss=5.0 - number, distillation_loss=None if number < 2 else 0.5)
        _, peers = look(5.0)
    assert peers["a"].steps_per_s == 10.0
    assert peers["a"].task_losses == (5.0, 4.0, 3.0, 2.0, 1.0)
    assert peers["a"].distillation_losses == (0.5, 0.5, 0.5)
    # A step without a new loss is no new point.
    tell("a", step=220, task_loss=1.0, distillation_loss=0.5)
    _, peers = look(5.0)
    assert len(peers["a"].task_losses) == 5


def test_only_a_running_peer_has_a_pace(tell, look):
    for number in range(4):
        tell("a", step=50 * number)
        look(5.0)
    tell("a", step=150, state="finished")
    _, peers = look(1.0)
    assert peers["a"].steps_per_s is None


def test_a_new_life_has_its_own_pace_and_must_show_that_it_lives(tell, look):
    for number in range(4):
        tell("a", step=50 * number)
        look(5.0)
    tell("a", step=500, incarnation=1)
    _, peers = look(5.0)
    assert (peers["a"].incarnation, peers["a"].steps_per_s, peers["a"].is_confirmed) == (1, None, False)


def test_what_a_peer_tells_of_its_teachers_is_shown(tell, look):
    tell(
        "a",
        reading={"b": (0, 3), "c": (1, 2)},
        ages={"b": 40},
        agreement={"b": 0.75},
        weight=0.5,
        quarantined=("c",),
        stall_s=1.0,
        running_s=50.0,
        advice=("Lower the weight decay.",),
    )
    _, peers = look()
    a = peers["a"]
    assert dict(a.teachers) == {"b": 40, "c": None}
    assert (dict(a.agreement), a.weight, a.quarantined) == ({"b": 0.75}, 0.5, ("c",))
    assert (a.stall_share, a.advice) == (0.02, ("Lower the weight decay.",))


def test_what_an_older_peer_does_not_tell_is_absent(store, tell, look):
    old = (
        b'{"format": 1, "run_id": "%s", "peer": "a", "incarnation": 0, "heartbeat": 1, "step": 5, '
        b'"samples": 40, "task_loss": null, "distillation_loss": null, "state": "running", "reading": {}}'
    )
    store.write("a/status.json", old % open_run(store).encode())
    _, peers = look()
    a = peers["a"]
    assert (a.step, a.weight, a.stall_share, a.agreement, a.advice) == (5, None, None, {}, ())


def test_a_share_is_between_none_and_all(tell, look):
    tell("a", stall_s=9.0, running_s=3.0)
    tell("b", stall_s=9.0, running_s=0.0)
    _, peers = look()
    assert (peers["a"].stall_share, peers["b"].stall_share) == (1.0, None)


def test_another_run_in_the_same_place_is_said_and_begins_anew(store, tell, look):
    tell("a", step=70, task_loss=1.0)
    look()
    store.write("run.json", b'{"format": 1, "run_id": "abc"}')
    tell("a", step=1, task_loss=2.0)
    view, peers = look(2.0)
    assert view.run_id == "abc"
    assert peers["a"].task_losses == (2.0,)
    assert "another run now" in view.problems[-1]


def test_the_time_watched_is_the_watcher_s():
    clock = FakeClock(100.0)
    history = History("runs/x", now_s=clock.monotonic())
    clock.advance(42.0)
    assert history.view(now_s=clock.monotonic()).watched_s == 42.0
