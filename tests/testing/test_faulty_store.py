import errno
import threading

import pytest

from codistill.errors import KeyMissingError, StoreError
from codistill.stores.memory import MemoryStore
from codistill.testing.faulty_store import Faults, FaultyStore
from codistill.testing.stores import StoreContract


class TestFaultyStoreWithoutFaults(StoreContract):
    @pytest.fixture
    def store(self):
        return FaultyStore(MemoryStore())


def test_a_failure_ends_after_its_times_and_leaves_the_store_untouched():
    inner = MemoryStore()
    store = FaultyStore(inner)
    store.faults.fail("write", times=2, key_contains="latest")
    store.write("a/manifest.json", b"x")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"write of 'a/latest\.json'") as caught:
            store.write("a/latest.json", b"x")
        assert caught.value.key == "a/latest.json"
    assert inner.list_names("a", limit=10) == ["manifest.json"]
    store.write("a/latest.json", b"x")
    assert inner.list_names("a", limit=10) == ["latest.json", "manifest.json"]


@pytest.mark.parametrize(
    ("verb", "call"),
    [
        ("read", lambda store: store.read("a", max_bytes=1)),
        ("write", lambda store: store.write("a", b"")),
        ("create", lambda store: store.create("a", b"")),
        ("delete", lambda store: store.delete("a")),
        ("list_names", lambda store: store.list_names("a", limit=1)),
    ],
)
def test_every_verb_can_fail_with_a_given_error_until_cleared(verb, call):
    faults = Faults()
    store = FaultyStore(MemoryStore(), faults)
    faults.fail(verb, error=ZeroDivisionError("scripted"))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError, match="scripted"):
            call(store)
    faults.clear()
    store.write("a", b"")
    call(store)
    assert store.count(verb) >= 4


def test_reads_can_be_truncated_and_altered_and_vanish():
    store = FaultyStore(MemoryStore())
    store.write("a", b"\x00\x00\x00")
    store.faults.truncate(2, times=1)
    assert store.read("a", max_bytes=10) == b"\x00\x00"
    store.faults.flip_bit(times=1)
    assert store.read("a", max_bytes=10) == b"\x00\x01\x00"
    store.faults.vanish(times=1)
    with pytest.raises(KeyMissingError, match="'a'"):
        store.read("a", max_bytes=10)
    assert store.read("a", max_bytes=10) == b"\x00\x00\x00"


def test_several_alterations_act_in_order():
    store = FaultyStore(MemoryStore())
    store.write("a", b"\x00\x00\x00\x00")
    store.faults.truncate(1)
    store.faults.flip_bit()
    assert store.read("a", max_bytes=10) == b"\x01"


def test_calls_are_remembered_in_order_with_those_that_failed():
    store = FaultyStore(MemoryStore())
    store.faults.fail("delete")
    store.create("run.json", b"")
    with pytest.raises(StoreError):
        store.delete("a/b")
    store.list_names("", limit=1)
    assert store.calls == [("create", "run.json"), ("delete", "a/b"), ("list_names", "")]
    assert store.count("delete", key_contains="a/") == 1
    assert store.count("delete", key_contains="c/") == 0


def test_times_must_be_at_least_one():
    with pytest.raises(ValueError, match="times must be >= 1, got 0"):
        Faults().flip_bit(times=0)


def test_a_store_that_is_away_fails_every_verb_for_a_while():
    store = FaultyStore(MemoryStore())
    store.write("a/b", b"x")
    store.faults.go_away(times=5)
    for call in (
        lambda: store.read("a/b", max_bytes=1),
        lambda: store.write("a/b", b"y"),
        lambda: store.create("a/c", b"y"),
        lambda: store.delete("a/b"),
        lambda: store.list_names("a", limit=1),
    ):
        with pytest.raises(StoreError, match="The test lets"):
            call()
    assert store.list_names("a", limit=10) == ["b"]
    assert store.read("a/b", max_bytes=10) == b"x"


def test_a_slow_call_goes_on_when_it_is_let():
    store = FaultyStore(MemoryStore())
    gate, has_come = threading.Event(), threading.Event()

    def wait():
        has_come.set()
        assert gate.wait(30)

    store.faults.delay("write", wait, times=1, key_contains="b")
    store.write("a", b"")
    writing = threading.Thread(target=store.write, args=("b", b"x"))
    writing.start()
    assert has_come.wait(30)
    assert store.list_names("", limit=10) == ["a"]
    gate.set()
    writing.join(30)
    assert store.list_names("", limit=10) == ["a", "b"]


@pytest.mark.parametrize(
    ("verb", "call", "after"),
    [
        ("write", lambda store: store.write("a", b"new"), b"new"),
        ("create", lambda store: store.create("b", b""), b"old"),
        ("delete", lambda store: store.delete("a"), None),
    ],
)
def test_a_call_whose_answer_gets_lost_has_been_done(verb, call, after):
    inner = MemoryStore()
    store = FaultyStore(inner)
    store.write("a", b"old")
    store.faults.lose_answer(verb, times=1)
    with pytest.raises(StoreError, match=f"answer to {verb} of"):
        call(store)
    names = inner.list_names("", limit=10)
    assert ("b" in names) == (verb == "create")
    assert (inner.read("a", max_bytes=10) if "a" in names else None) == after


def test_a_full_disk_takes_what_fits_and_leaves_the_old_value(tmp_path):
    store = FaultyStore(MemoryStore())
    store.write("a", b"old")
    source = tmp_path / "source"
    source.write_bytes(b"0123")
    store.faults.fill_up(after_bytes=8)
    store.write("b", source)
    store.write("c", memoryview(b"01"))
    for write in (lambda: store.write("a", b"new"), lambda: store.create("d", b"new")):
        with pytest.raises(StoreError, match=r"disk is full: there is no room for '[ad]'") as caught:
            write()
        assert caught.value.__cause__.errno == errno.ENOSPC
    assert store.read("a", max_bytes=10) == b"old"
    assert store.list_names("", limit=10) == ["a", "b", "c"]
    store.write("a", b"ok")
    store.faults.clear()
    store.write("a", b"as large as it likes")
    with pytest.raises(ValueError, match="after_bytes must be >= 0, got -1"):
        store.faults.fill_up(after_bytes=-1)
