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
