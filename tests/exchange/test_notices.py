import pytest

from codistill.errors import CodistillWarning
from codistill.exchange.notices import Notices


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


def test_an_outage_is_said_once_until_all_works_again():
    notices = Notices()
    for _ in range(2):
        with pytest.warns(CodistillWarning, match="The disk is full"):
            notices.store_failed("publish", "The disk is full.")
        # A second warning would be an error here.
        notices.store_failed("fetch", "It is full for readers too.")
        notices.store_works("publish")
        notices.store_failed("fetch", "It still is.")
        notices.store_works("fetch")
