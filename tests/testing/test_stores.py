import pytest
from typing_extensions import override

from codistill.stores.memory import MemoryStore
from codistill.testing.stores import StoreContract


class LyingStore(MemoryStore):
    """Its create is not exclusive, and its reads ignore where to start."""

    @override
    def _create(self, key, content):
        self._write(key, content)
        return True

    @override
    def _read(self, key, *, max_bytes, start):
        return super()._read(key, max_bytes=max_bytes, start=0)


def test_the_contract_notices_a_create_that_replaces():
    with pytest.raises(AssertionError):
        StoreContract().test_create_stores_only_the_first(LyingStore())
    with pytest.raises(AssertionError):
        StoreContract().test_exactly_one_of_many_creates_succeeds(LyingStore())


def test_the_contract_notices_a_read_that_ignores_its_start():
    with pytest.raises(AssertionError):
        StoreContract().test_read_is_bounded_at_both_ends(LyingStore())
