import pytest

from codistill.errors import PeerTakenError, RunExistsError
from codistill.exchange.checkpoint.membership import Membership
from codistill.testing import FakeClock


class ClockOfTwo(FakeClock):
    """While somebody sleeps by it, another peer's heart goes on beating."""

    def __init__(self, other):
        super().__init__()
        self._other = other

    def sleep(self, seconds):
        super().sleep(seconds)
        self._other.background.tick()


@pytest.mark.parametrize("rejoin", [True, False])
def test_a_second_job_under_a_name_that_lives_is_refused_and_the_first_goes_on(store, join, rejoin):
    first = join(store, "a")
    first.step()
    second = join(store, "a", membership=Membership(rejoin=rejoin), clock=ClockOfTwo(first))
    with pytest.raises(PeerTakenError, match="'a', which a job has") as caught:
        second.step()
    assert caught.value.peer == "a"
    assert second.clock.sleeps == [5.0]  # one beat is enough
    report = first.step()
    assert report.published


def test_a_name_whose_owner_is_dead_is_taken_over_after_three_heartbeats(store, join):
    first = join(store, "a")
    first.step()
    # It is killed: its heart does not beat any more.
    second = join(store, "a", membership=Membership(rejoin=True))
    second.step()
    assert second.clock.sleeps == [5.0, 5.0, 5.0]
    assert store.list_names("a/lives", limit=9) == ["0.json", "1.json"]


def test_an_owner_that_was_only_asleep_stops_when_its_name_is_taken_over(store, join):
    first = join(store, "a", value=1.0)
    first.step()
    second = join(store, "a", value=2.0, membership=Membership(rejoin=True))
    second.step()
    reader = join(store, "b")
    # It publishes before it notices, for the last time: its snapshots are older than any of the second one.
    first.background.tick()
    with pytest.raises(PeerTakenError, match="has been taken over by another job") as caught:
        first.step()
    assert caught.value.peer == "a"
    assert caught.value.key == "a/lives/1.json"
    first.close()
    second.step()
    reader.step()
    assert reader.value_of("a") == 2.0
    assert reader.codistiller.teachers["a"].incarnation == 1


def test_a_name_that_was_closed_is_free_at_once(store, join):
    first = join(store, "a")
    first.step()
    first.close()
    second = join(store, "a", state=first.codistiller.state_dict())
    second.step()
    assert second.clock.sleeps == []


def test_a_new_job_on_top_of_an_old_run_is_refused_unless_it_rejoins_or_has_its_state(store, join):
    first = join(store, "a")
    first.step(3)
    state = first.codistiller.state_dict()
    first.close()
    with pytest.raises(RunExistsError, match=r"has published step 3 .* starts at step 0") as caught:
        join(store, "a").step()
    assert (caught.value.peer, caught.value.step) == ("a", 3)
    # Refused is refused: nothing has been touched.
    assert store.list_names("a/lives", limit=9) == ["0.json"]
    resumed = join(store, "a", state=state)
    assert resumed.step().step == 4
    resumed.close()
    rejoined = join(store, "a", membership=Membership(rejoin=True))
    assert rejoined.step().step == 1
    assert store.list_names("a/lives", limit=9) == ["0.json", "1.json", "2.json"]


def test_of_two_that_claim_a_life_at_once_each_gets_its_own(store, join):
    students = [join(store, "a", membership=Membership(rejoin=True)) for _ in range(2)]
    store.faults.vanish(key_contains="a/status.json")  # as where neither has said a word yet
    for student in students:
        student.loss()
    incarnations = [student.codistiller.state_dict()["exchange"]["incarnation"] for student in students]
    assert incarnations == [0, 1]
