"""What every store has to pass."""

import random
from pathlib import Path

import pytest

from codistill.errors import KeyMissingError, StoreError
from codistill.stores.base import Store
from codistill.testing.peers import run_peers

_BAD_KEYS = [
    "",
    "/a",
    "a/",
    "a//b",
    "..",
    "a/../b",
    ".hidden",
    "a/.b",
    "-a",
    "a b",
    "a\\b",
    "a\n",
    "\u00e9",
    "a" * 1025,
]
_THREADS = [f"thread-{i}" for i in range(4)]
_CHUNK_BYTES = 8 * 2**20


class StoreContract:
    """Inherit from it in a test class and override the fixture `store` with an empty store.

    Attributes:
        rounds: How often each of four threads repeats what the others do at once; fewer where every call
            is a request to a server.

    Example::

        class TestMyStore(StoreContract):
            @pytest.fixture
            def store(self) -> Store:
                return MyStore()
    """

    rounds = 25

    @pytest.fixture
    def store(self) -> Store:
        """Return an empty store; override it."""
        raise NotImplementedError("Override the fixture `store` with one that returns an empty store.")

    def test_read_returns_what_was_written(self, store: Store) -> None:
        """Bytes come back as they were."""
        content = bytes(range(256))
        store.write("a/latest.json", content)
        assert store.read("a/latest.json", max_bytes=1000) == content

    def test_write_replaces_the_former_value(self, store: Store) -> None:
        """Also by a shorter one."""
        store.write("a", b"long")
        store.write("a", b"new")
        assert store.read("a", max_bytes=10) == b"new"

    def test_write_takes_memoryviews_and_files(self, store: Store, tmp_path: Path) -> None:
        """A file is copied and stays."""
        file = tmp_path / "content"
        file.write_bytes(b"of a file")
        store.write("view", memoryview(b"of a view")[3:])
        store.write("file", file)
        assert store.read("view", max_bytes=100) == b"a view"
        assert store.read("file", max_bytes=100) == b"of a file"
        assert file.read_bytes() == b"of a file"

    def test_write_keeps_its_own_copy(self, store: Store) -> None:
        """What the caller does to its buffer later changes nothing."""
        buffer = bytearray(b"before")
        store.write("a", memoryview(buffer))
        buffer[:] = b"after!"
        assert store.read("a", max_bytes=10) == b"before"

    def test_an_empty_value_is_a_value(self, store: Store) -> None:
        """It is stored, listed and read."""
        store.write("a", b"")
        assert store.read("a", max_bytes=10) == b""
        assert store.list_names("", limit=10) == ["a"]

    def test_read_is_bounded_at_both_ends(self, store: Store) -> None:
        """As ``pread``: shorter at the end, nothing beyond it."""
        store.write("a", b"0123456789")
        assert store.read("a", max_bytes=4) == b"0123"
        assert store.read("a", max_bytes=4, start=3) == b"3456"
        assert store.read("a", max_bytes=4, start=8) == b"89"
        assert store.read("a", max_bytes=4, start=10) == b""
        assert store.read("a", max_bytes=4, start=10**6) == b""

    def test_sweeping_takes_no_values(self, store: Store) -> None:
        """Only what interrupted writes have left."""
        store.write("a/b/c", b"value")
        store.sweep("a")
        store.sweep("nowhere")
        assert store.read("a/b/c", max_bytes=10) == b"value"

    def test_read_into_fills_a_buffer(self, store: Store) -> None:
        """As far as the value reaches, and not beyond the buffer."""
        store.write("a", b"0123456789")
        buffer = bytearray(b"......")
        assert store.read_into("a", memoryview(buffer)[1:5], start=3) == 4
        assert bytes(buffer) == b".3456."
        assert store.read_into("a", memoryview(buffer), start=8) == 2
        assert bytes(buffer) == b"89456."
        with pytest.raises(KeyMissingError):
            store.read_into("missing", memoryview(buffer))

    def test_read_of_a_missing_key_names_it(self, store: Store) -> None:
        """A folder of values is no value."""
        store.write("a/b", b"")
        for key in ("missing", "a/missing", "a", "a/b/c"):
            with pytest.raises(KeyMissingError, match=key) as caught:
                store.read(key, max_bytes=1)
            assert caught.value.key == key

    def test_a_large_value_is_read_in_pieces(self, store: Store, tmp_path: Path) -> None:
        """Longer than a chunk of a manifest, from memory and from a file."""
        content = random.Random(0).randbytes(_CHUNK_BYTES + 1000)
        file = tmp_path / "content"
        file.write_bytes(content)
        store.write("view", memoryview(content))
        store.write("file", file)
        for key in ("view", "file"):
            pieces = [
                store.read(key, max_bytes=_CHUNK_BYTES // 2, start=start)
                for start in range(0, len(content), _CHUNK_BYTES // 2)
            ]
            assert [len(piece) for piece in pieces] == [_CHUNK_BYTES // 2, _CHUNK_BYTES // 2, 1000]
            assert b"".join(pieces) == content
        assert store.read("file", max_bytes=100 * _CHUNK_BYTES) == content

    def test_an_empty_value_is_read_at_any_start(self, store: Store) -> None:
        """As an empty one, not as a missing one."""
        store.write("written", b"")
        store.create("created", b"")
        for key in ("written", "created"):
            assert store.read(key, max_bytes=1) == b""
            assert store.read(key, max_bytes=1, start=5) == b""

    def test_create_stores_only_the_first(self, store: Store) -> None:
        """The second is told so, and changes nothing."""
        assert store.create("run.json", b"first") is True
        assert store.create("run.json", b"first") is False
        assert store.create("run.json", b"second") is False
        assert store.read("run.json", max_bytes=10) == b"first"

    def test_create_sees_what_was_written_and_deleted(self, store: Store) -> None:
        """It fails over any value and succeeds when that is gone."""
        store.write("a", b"written")
        assert store.create("a", b"created") is False
        store.delete("a")
        assert store.create("a", b"created") is True

    def test_delete_removes_and_is_no_error_twice(self, store: Store) -> None:
        """Neither for a key that never was, nor for a folder, whose values stay."""
        store.write("a/b", b"x")
        store.write("a/c", b"y")
        for key in ("a/b", "a/b", "never/was", "a", "a/c/d"):
            store.delete(key)
        assert store.list_names("a", limit=10) == ["c"]

    def test_a_folder_without_values_is_gone(self, store: Store) -> None:
        """It is not listed any more."""
        store.write("a/snapshots/0-1/manifest.json", b"{}")
        store.write("b/latest.json", b"{}")
        store.delete("a/snapshots/0-1/manifest.json")
        assert store.list_names("", limit=10) == ["b"]
        assert store.list_names("a", limit=10) == []

    def test_list_names_is_sorted_and_one_level_deep(self, store: Store) -> None:
        """Values and folders alike, each once."""
        for key in ("b/latest.json", "b/lives/0.json", "a/latest.json", "run.json", "c"):
            store.write(key, b"")
        assert store.list_names("", limit=10) == ["a", "b", "c", "run.json"]
        assert store.list_names("b", limit=10) == ["latest.json", "lives"]
        assert store.list_names("b/lives", limit=10) == ["0.json"]

    def test_list_names_stops_at_the_limit(self, store: Store) -> None:
        """With the first names in order."""
        for i in (3, 1, 4, 0, 2):
            store.write(f"peer-{i}/latest.json", b"")
        assert store.list_names("", limit=3) == ["peer-0", "peer-1", "peer-2"]

    def test_list_names_of_nothing_is_empty(self, store: Store) -> None:
        """No folder, and no mere beginning of a name."""
        store.write("abc", b"")
        assert store.list_names("ab", limit=10) == []
        assert store.list_names("abc", limit=10) == []

    @pytest.mark.parametrize("key", _BAD_KEYS)
    def test_bad_keys_are_refused_by_every_verb(self, store: Store, key: str) -> None:
        """Before they reach the backend."""
        with pytest.raises(ValueError, match="key must"):
            store.read(key, max_bytes=1)
        with pytest.raises(ValueError, match="key must"):
            store.write(key, b"")
        with pytest.raises(ValueError, match="key must"):
            store.create(key, b"")
        with pytest.raises(ValueError, match="key must"):
            store.delete(key)
        if key:
            with pytest.raises(ValueError, match="prefix must"):
                store.list_names(key, limit=1)
        assert store.list_names("", limit=10) == []

    def test_wrong_arguments_are_named(self, store: Store) -> None:
        """Bounds, limits and contents."""
        with pytest.raises(ValueError, match="max_bytes must be >= 1, got 0"):
            store.read("a", max_bytes=0)
        with pytest.raises(ValueError, match="start must be >= 0, got -1"):
            store.read("a", max_bytes=1, start=-1)
        with pytest.raises(ValueError, match="limit must be >= 1, got 0"):
            store.list_names("", limit=0)
        with pytest.raises(TypeError, match=r"content must be bytes, .*, got str"):
            store.write("a", "text")  # type: ignore[arg-type]  # the mistake under test
        with pytest.raises(TypeError, match="max_bytes must be an int, got True"):
            store.read("a", max_bytes=True)
        with pytest.raises(TypeError, match="content must be bytes, got memoryview"):
            store.create("a", memoryview(b""))  # type: ignore[arg-type]  # the mistake under test
        with pytest.raises(TypeError, match="key must be a string, got "):
            store.delete(Path("a"))  # type: ignore[arg-type]  # the mistake under test

    def test_describe_is_for_people(self, store: Store) -> None:
        """One line of text."""
        assert store.describe().strip()
        assert "\n" not in store.describe()

    def test_readers_never_see_part_of_a_value(self, store: Store) -> None:
        """Whoever reads while others write gets one writer's whole value."""
        values = {name: name[-1:].encode() * (100_000 + 10_000 * i) for i, name in enumerate(_THREADS)}
        store.write("a", values[_THREADS[0]])

        def write_and_read(name: str) -> set[bytes]:
            seen = set()
            for _ in range(self.rounds):
                store.write("a", values[name])
                seen.add(store.read("a", max_bytes=200_000))
            return seen

        for seen in run_peers(write_and_read, _THREADS).values():
            assert seen <= set(values.values())

    def test_exactly_one_of_many_creates_succeeds(self, store: Store) -> None:
        """And it is the one whose value is there."""

        def create(name: str) -> list[bool]:
            return [store.create(f"lives/{i}.json", name.encode()) for i in range(self.rounds)]

        results = run_peers(create, _THREADS)
        for i in range(self.rounds):
            winners = [name for name in _THREADS if results[name][i]]
            assert [store.read(f"lives/{i}.json", max_bytes=100)] == [name.encode() for name in winners]

    def test_a_created_value_is_whole_when_it_is_seen(self, store: Store) -> None:
        """Whoever loses may read the winner's value at once."""
        values = {name: name[-1:].encode() * 10_000 for name in _THREADS}

        def create_and_read(name: str) -> set[bytes]:
            seen = set()
            for i in range(self.rounds):
                store.create(f"lives/{i}.json", values[name])
                seen.add(store.read(f"lives/{i}.json", max_bytes=20_000))
            return seen

        for seen in run_peers(create_and_read, _THREADS).values():
            assert seen <= set(values.values())

    def test_writes_survive_deletes_beside_them(self, store: Store) -> None:
        """A folder that empties at this moment is made again."""

        def write_and_delete(name: str) -> None:
            for _ in range(self.rounds):
                store.write(f"a/b/{name}", b"x")
                assert store.read(f"a/b/{name}", max_bytes=1) == b"x"
                store.delete(f"a/b/{name}")

        run_peers(write_and_delete, _THREADS)
        assert store.list_names("", limit=10) == []

    def test_a_missing_key_is_a_store_error_and_a_file_error(self, store: Store) -> None:
        """Either can be caught."""
        with pytest.raises(StoreError):
            store.read("a", max_bytes=1)
        with pytest.raises(FileNotFoundError):
            store.read("a", max_bytes=1)
