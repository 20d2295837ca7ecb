import pytest

from codistill.errors import CodistillWarning, KeyMissingError, SnapshotError, StoreError
from codistill.exchange.checkpoint.notices import Notices


def test_a_thing_is_said_once():
    notices = Notices()
    with pytest.warns(CodistillWarning, match="first"):
        notices.say("subject", "first")
    notices.say("subject", "second")  # a warning would be an error here


def test_other_things_are_said_too():
    notices = Notices()
    with pytest.warns(CodistillWarning, match="about a"):
        notices.say(("fetch", "a"), "about a")
    with pytest.warns(CodistillWarning, match="about b"):
        notices.say(("fetch", "b"), "about b")


def test_what_has_passed_may_be_said_again():
    notices = Notices()
    notices.has_passed("subject")
    for _ in range(2):
        with pytest.warns(CodistillWarning, match="something"):
            notices.say("subject", "something")
        notices.has_passed("subject")


def fail(notices, *, kind=StoreError):
    with notices.instead_of_store_errors("publish"):
        raise kind("The disk is full.")


@pytest.mark.parametrize("kind", [StoreError, KeyMissingError])
def test_store_errors_become_one_warning(kind):
    notices = Notices()
    with pytest.warns(CodistillWarning, match=r"The disk is full\. Training goes on") as caught:
        fail(notices, kind=kind)
    assert len(caught) == 1
    fail(notices, kind=kind)


def test_a_block_that_succeeds_lets_the_next_failure_be_said():
    notices = Notices()
    for _ in range(2):
        with pytest.warns(CodistillWarning, match="Training goes on"):
            fail(notices)
        with notices.instead_of_store_errors("publish"):
            pass


@pytest.mark.parametrize("kind", [SnapshotError, TypeError, RuntimeError])
def test_other_errors_pass_through(kind):
    with pytest.raises(kind, match="not the store"), Notices().instead_of_store_errors("publish"):
        raise kind("not the store")
