import pytest

from codistill.stores.memory import MemoryStore
from codistill.testing.stores import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self):
        return MemoryStore()


def test_create_twice_with_the_same_object_succeeds_once():
    store, content = MemoryStore(), b"same object"
    assert [store.create("a", content), store.create("a", content)] == [True, False]
