from codistill.exchange.checkpoint.roster import Roster, Sighted


def test_whoever_is_new_is_seen():
    roster = Roster()
    assert roster.peers == {}
    assert roster.see("b", (0, 0), step=7)
    assert roster.peers == {"b": Sighted((0, 0), 7)}


def test_the_same_snapshot_keeps_the_step_at_which_it_was_first_seen():
    roster = Roster()
    roster.see("b", (0, 3), step=7)
    assert roster.see("b", (0, 3), step=90)
    assert roster.age_steps("b", step=90) == 83


def test_newer_is_a_later_sequence_or_a_later_life():
    roster = Roster()
    for step, order in enumerate([(0, 3), (0, 4), (1, 0), (1, 1)]):
        assert roster.see("b", order, step=step)
        assert roster.peers["b"] == Sighted(order, step)


def test_older_is_refused_and_changes_nothing():
    roster = Roster()
    roster.see("b", (1, 3), step=7)
    for order in ((1, 2), (0, 99)):
        assert not roster.see("b", order, step=9)
    assert roster.peers == {"b": Sighted((1, 3), 7)}


def test_peers_are_told_apart():
    roster = Roster()
    roster.see("b", (5, 0), step=1)
    assert roster.see("c", (0, 0), step=2)


def test_a_copy_changes_without_the_original():
    roster = Roster({"b": Sighted((0, 0), 1)})
    copy = roster.copy()
    copy.see("b", (0, 1), step=2)
    copy.note_whether_finished("b", True)
    assert roster.peers == {"b": Sighted((0, 0), 1)}


def test_what_an_earlier_life_had_seen_is_not_changed_in_place():
    seen = {"b": Sighted((0, 0), 1)}
    Roster(seen).see("b", (0, 1), step=2)
    assert seen == {"b": Sighted((0, 0), 1)}


def test_whether_a_snapshot_is_the_last_is_forgotten_with_a_newer_one():
    roster = Roster({"b": Sighted((0, 0), 1)})
    roster.note_whether_finished("b", True)
    assert roster.peers["b"] == Sighted((0, 0), 1, is_finished=True, is_checked=True)
    roster.see("b", (1, 0), step=5)
    assert roster.peers["b"] == Sighted((1, 0), 5)
