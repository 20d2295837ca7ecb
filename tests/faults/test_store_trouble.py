import itertools
import threading

import pytest
from faults.trainer import Job
from settled_threads import SettledThreads

from codistill import load_snapshot
from codistill.errors import StoreError
from codistill.exchange.checkpoint.membership import Membership
from codistill.stores.directory import DirectoryStore
from codistill.stores.memory import MemoryStore
from codistill.testing import FaultyStore
from faults import room

# What breaks is looked at here, not what settings would teach more.
pytestmark = pytest.mark.filterwarnings("ignore::codistill.errors.AdviceWarning")

# A store that has failed often is given three intervals at a time to recover.
RECOVERY_INTERVALS = 6


def hidden_files(folder):
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


@pytest.fixture
def join_two(join):
    """Return a function that makes two peers that have each other as teacher, however long it is silent."""

    def make(store):
        students = [join(store, peer, membership=Membership(max_age_steps=10**6)) for peer in "ab"]
        for _ in range(3):
            for student in students:
                student.step()
        return students

    return make


def check_that_they_recover(students):
    """Check that both publish and take again, and that there is nothing to say about it."""
    before = [student.exchange.counters.publishes for student in students]
    for number in range(RECOVERY_INTERVALS):
        for student, offset in zip(students, (0, 100), strict=True):
            student.become(number + offset)
            assert student.say() == []
    after = [student.exchange.counters.publishes for student in students]
    assert all(now > then for now, then in zip(after, before, strict=True))
    # The second one came last, and has what the first one had just published.
    assert students[1].value_of("a") == number
    assert students[0].value_of("b") == number - 1 + 100


# Full


def test_a_full_disk_is_said_once_leaves_nothing_torn_and_is_survived(tmp_path, join_two):
    with room.small_disk(tmp_path / "disk", size_bytes=256 * 1024) as is_mounted:
        if not is_mounted:
            pytest.skip("no disk to fill: this process may not mount one")
        store = tmp_path / "disk" / "run"
        students = join_two(store)
        teacher = students[1].value_of("a")
        ballast = tmp_path / "disk" / "ballast"
        room.fill(ballast)
        assert room.free_bytes(store) == 0
        said = {}
        for student in students:
            student.become(77.0)
            said[student] = student.say(12)
        # What b deletes in time is room for a: neither must fail, and neither may say more than one word.
        assert 1 <= sum(map(len, said.values())) <= 2
        assert all(len(messages) <= 1 for messages in said.values())
        assert all("No space left" in message for messages in said.values() for message in messages)
        assert students[1].value_of("a") in (teacher, 77.0)
        assert hidden_files(store) == []
        ballast.unlink()
        check_that_they_recover(students)
        for student in students:
            student.close()


def test_a_disk_that_gets_full_in_the_middle_of_a_snapshot_is_survived(store, join_two):
    students = join_two(store)
    # Room for a status and a shard, and not for a manifest.
    store.faults.fill_up(after_bytes=900)
    (said,) = students[0].say(8)
    assert "disk is full" in said
    assert "Training goes on" in said
    assert len(students[1].say(8)) == 1
    store.faults.clear()
    check_that_they_recover(students)


@pytest.mark.spawn
def test_a_process_that_may_write_no_large_files_any_more_trains_on(tmp_path, start_peer, ask):
    job = Job(store=tmp_path / "run", folder=tmp_path, peer="a", interval_steps=1, width=8)
    process, connection = start_peer(job)
    assert connection.poll(60.0)
    connection.recv()
    assert ask(connection, "train", 3)["published"] >= 1
    ask(connection, "let files be as large as", 1024)
    told = ask(connection, "train", 20)
    assert told["error"] is None
    assert told["step"] == 23
    (said,) = [message for message in told["warnings"] if "no teacher" not in message]
    assert "File too large" in said
    assert hidden_files(tmp_path / "run") == []
    assert load_snapshot(tmp_path / "run", "a")[1].step <= 4
    ask(connection, "let files be as large as", -1)
    told = ask(connection, "train", RECOVERY_INTERVALS)
    assert told["warnings"] == []
    assert told["published"] >= 1
    assert load_snapshot(tmp_path / "run", "a")[1].step > 23
    ask(connection, "close")
    process.join(30.0)
    assert process.exitcode == 0


# Away


def test_a_store_that_is_away_is_said_once_an_outage(store, join_two):
    students = join_two(store)
    for _ in range(2):
        store.faults.go_away()
        for student in students:
            (said,) = student.say(20)
            assert "Training goes on" in said
        assert students[0].codistiller.teachers["b"].age_steps >= 20
        assert students[0].codistiller.teachers["b"].share == 1.0
        store.faults.clear()
        check_that_they_recover(students)


def test_a_folder_that_is_away_is_said_once_and_found_again(tmp_path, join_two):
    folder, away = tmp_path / "run", tmp_path / "away"
    students = join_two(folder)
    folder.rename(away)
    folder.touch()
    for student in students:
        (said,) = student.say(10)
        assert str(folder) in said
    folder.unlink()
    away.rename(folder)
    check_that_they_recover(students)


def test_another_empty_folder_in_its_place_leaves_the_teachers(tmp_path, join_two):
    folder, away = tmp_path / "run", tmp_path / "away"
    students = join_two(folder)
    held = students[1].value_of("a")
    folder.rename(away)
    assert students[1].say(5) == []
    assert students[1].value_of("a") == held
    folder.rename(tmp_path / "other")
    away.rename(folder)
    check_that_they_recover(students)


@pytest.mark.parametrize("verb", ["read", "write", "list_names"])
def test_a_store_that_answers_every_other_call_only_is_survived(store, join_two, verb):
    students = join_two(store)
    calls = itertools.count()

    def fail_now_and_then():
        if next(calls) % 2:
            raise StoreError("Not now.")

    store.faults.delay(verb, fail_now_and_then)
    for _ in range(20):
        for student in students:
            for message in student.say():
                assert "Not now." in message
    assert next(calls) > 20
    store.faults.clear()
    check_that_they_recover(students)


@pytest.mark.parametrize("verb", ["write", "delete"])
def test_answers_that_get_lost_are_survived(store, join_two, verb):
    students = join_two(store)
    store.faults.lose_answer(verb, times=7)
    for student in students:
        assert len(student.say(6)) <= 1
    store.faults.clear()
    check_that_they_recover(students)


def test_a_snapshot_that_is_cut_short_by_the_store_is_refused(store, join_two):
    students = join_two(store)
    students[0].become(5.0)
    students[0].step()
    store.faults.truncate(100, key_contains="a/snapshots")
    (said,) = students[1].say(3)
    assert "peer 'a'" in said
    assert students[1].value_of("a") == float(ord("a"))
    store.faults.clear()
    check_that_they_recover(students)


# Slow


class Gate:
    """Holds up whoever comes, until it is opened."""

    def __init__(self):
        self._open, self._has_come = threading.Event(), threading.Event()

    def wait(self):
        self._has_come.set()
        assert self._open.wait(60.0)

    def wait_until_somebody_waits(self):
        assert self._has_come.wait(60.0)

    def open(self):
        self._open.set()


@pytest.mark.parametrize(("verb", "key"), [("write", "snapshots"), ("write", "latest"), ("read", "b/latest")])
def test_no_step_waits_for_a_store_that_hangs(join, verb, key):
    store = FaultyStore(MemoryStore())
    membership = Membership(max_age_steps=10**6)
    join(store, "b").step(2)
    student = join(store, "a", background=SettledThreads(), membership=membership)
    for _ in range(3):
        student.step()
        student.background.settle()
    gate = Gate()
    store.faults.delay(verb, gate.wait, key_contains=key, times=1)
    student.step()
    gate.wait_until_somebody_waits()
    publishes = student.exchange.counters.publishes
    # If one of these waited, this test would not end.
    report = student.step(200)
    assert report.shares == {"b": 1.0}
    if verb == "write":
        assert report.publishes_skipped >= 199
        assert student.exchange.counters.publishes == publishes
    gate.open()
    for _ in range(RECOVERY_INTERVALS):
        student.background.settle()
        report = student.step()
    assert student.exchange.counters.publishes > publishes
    assert "b" in report.teachers


def test_closing_gives_a_store_that_hangs_up_in_time(join):
    store = FaultyStore(MemoryStore())
    student = join(store, "a", background=SettledThreads())
    student.step()
    # Who is still writing at the next interval leaves that one out.
    student.background.settle()
    gate = Gate()
    store.faults.delay("write", gate.wait, key_contains="snapshots")
    student.step()
    gate.wait_until_somebody_waits()
    with pytest.warns(match="has not answered within 0.1 s"):
        student.close(timeout_s=0.1)
    gate.open()
    student.background.settle()
    assert student.background.stop(30.0) == []


def test_a_write_that_fails_in_a_folder_leaves_no_part_of_a_value(tmp_path):
    with room.small_disk(tmp_path / "disk", size_bytes=64 * 1024) as is_mounted:
        if not is_mounted:
            pytest.skip("no disk to fill: this process may not mount one")
        store = DirectoryStore(tmp_path / "disk" / "run")
        store.write("a/small", b"old")
        with pytest.raises(OSError, match="No space left") as caught:
            store.write("a/large", b"x" * 10**6)
        assert room.is_full_error(caught.value)
        assert store.list_names("a", limit=9) == ["small"]
        assert hidden_files(tmp_path / "disk") == []
