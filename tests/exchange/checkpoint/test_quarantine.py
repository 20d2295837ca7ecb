import pytest

from codistill.exchange.base import TeacherInfo
from codistill.exchange.checkpoint.quarantine import Quarantine, is_worse


def teachers(**losses):
    return {
        peer: TeacherInfo(
            peer=peer,
            incarnation=0,
            sequence=0,
            step=1,
            samples=1,
            age_steps=0,
            task_loss=loss,
            metadata={},
        )
        for peer, loss in losses.items()
    }


@pytest.mark.parametrize(
    ("teacher_loss", "own_loss", "expected"),
    [
        (2.01, 1.0, True),
        (2.0, 1.0, False),  # not over twice
        (0.19, 0.09, False),  # over twice, but not worse by 0.1
        (0.2, 0.09, True),
        (None, 1.0, False),
        (5.0, None, False),
        (5.0, 0.0, False),
        (5.0, -1.0, False),
        (-1.0, -5.0, False),
        (float("inf"), 1.0, True),
        (float("nan"), 1.0, False),
    ],
)
def test_worse_is_over_twice_and_by_a_tenth_of_positive_losses(teacher_loss, own_loss, expected):
    assert is_worse(teacher_loss, own_loss) is expected


def test_three_bad_intervals_in_a_row_are_enough():
    quarantine = Quarantine()
    assert quarantine.judge(teachers(b=3.0, c=1.0), 1.0) == {}
    assert quarantine.judge(teachers(b=3.0, c=1.0), 1.0) == {}
    assert quarantine.peers == frozenset()
    new = quarantine.judge(teachers(b=3.0, c=1.0), 1.0)
    assert list(new) == ["b"]
    assert (
        "the task loss of its last snapshot, 3, has been over twice this peer's, 1, for 3 intervals (age: "
        in new["b"]
    )
    assert quarantine.peers == frozenset("b")


def test_a_good_interval_begins_the_count_anew():
    quarantine = Quarantine()
    for loss in (3.0, 3.0, 1.0, 3.0, 3.0):
        assert quarantine.judge(teachers(b=loss), 1.0) == {}


def test_who_is_in_is_not_new_again():
    quarantine = Quarantine()
    assert quarantine.put("b", "NaN") is True
    assert quarantine.put("b", "NaN") is False
    for _ in range(5):
        assert quarantine.judge(teachers(b=9.0), 1.0) == {}


def test_whoever_is_let_out_is_counted_afresh():
    quarantine = Quarantine()
    for _ in range(3):
        quarantine.judge(teachers(b=9.0), 1.0)
    assert quarantine.let_out("b") is True
    assert quarantine.let_out("b") is False
    assert quarantine.peers == frozenset()
    for expected in ([], [], ["b"]):
        assert list(quarantine.judge(teachers(b=9.0), 1.0)) == expected


def test_quarantine_hands_out_no_more_than_a_look():
    quarantine = Quarantine()
    before = quarantine.peers
    quarantine.put("b", "NaN")
    assert before == frozenset()
