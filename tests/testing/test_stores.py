from pathlib import Path

import pytest
from typing_extensions import override

from codistill.errors import KeyMissingError
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


class ForgetfulStore(MemoryStore):
    """It takes empty values for missing ones, and stores no more than a MiB."""

    @override
    def _read(self, key, *, max_bytes, start):
        content = super()._read(key, max_bytes=max_bytes, start=start)
        if content == b"":
            raise KeyMissingError("Nothing is stored.", key=key)
        return content

    @override
    def _write(self, key, content):
        super()._write(key, (content.read_bytes() if isinstance(content, Path) else content)[: 2**20])


def test_the_contract_notices_empty_values_that_are_missing():
    with pytest.raises(KeyMissingError):
        StoreContract().test_an_empty_value_is_read_at_any_start(ForgetfulStore())


def test_the_contract_notices_a_large_value_that_was_cut(tmp_path):
    with pytest.raises((AssertionError, KeyMissingError)):
        StoreContract().test_a_large_value_is_read_in_pieces(ForgetfulStore(), tmp_path)


class TornStore(MemoryStore):
    """Now and then a reader comes at a bad moment."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    @override
    def _read(self, key, *, max_bytes, start):
        self.reads += 1
        content = super()._read(key, max_bytes=max_bytes, start=start)
        return content if self.reads % 7 else content[: len(content) // 2]


def test_the_contract_notices_part_of_a_value():
    with pytest.raises(AssertionError):
        StoreContract().test_readers_never_see_part_of_a_value(TornStore())
    with pytest.raises(AssertionError):
        StoreContract().test_a_created_value_is_whole_when_it_is_seen(TornStore())
