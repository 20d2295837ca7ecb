import os
from pathlib import Path

import numpy as np
import pytest

from codistill.lab.tasks.cache import Array, cache_folder, cached_arrays, digest_of

ARRAYS = {
    "pixels": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "file": np.array([0.5, -1.5]),
    "words": np.array(["ein", "Wort"]),
    "none": np.zeros((0, 3), np.int64),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setattr("codistill.lab.tasks.cache.cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def never() -> dict[str, Array]:
    pytest.fail("made again")


def equal(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


def test_arrays_are_made_once(folder: Path) -> None:
    made = cached_arrays("digits-1", lambda: ARRAYS)
    read = cached_arrays("digits-1", never)
    assert equal(made, ARRAYS)
    assert equal(read, ARRAYS)
    assert [path.name for path in folder.iterdir()] == ["digits-1.npz"]
    assert read["pixels"].flags.writeable


def test_the_file_is_an_ordinary_npz(folder: Path) -> None:
    cached_arrays("digits-1", lambda: {"pixels": ARRAYS["pixels"]})
    with np.load(folder / "digits-1.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["pixels"], ARRAYS["pixels"])


def test_another_key_gets_other_arrays(folder: Path) -> None:
    cached_arrays("digits-1", lambda: ARRAYS)
    other = cached_arrays("digits-2", lambda: {"pixels": np.ones(3)})
    assert other["pixels"].tolist() == [1, 1, 1]
    assert equal(cached_arrays("digits-1", never), ARRAYS)


def test_a_damaged_file_is_made_and_written_anew(folder: Path) -> None:
    cached_arrays("digits-1", lambda: ARRAYS)
    path = folder / "digits-1.npz"
    whole = path.read_bytes()
    spot = whole.index(ARRAYS["pixels"].tobytes())
    flipped = whole[:spot] + b"\xff" + whole[spot + 1 :]
    np.savez(folder / "objects.npz", pixels=np.array([None]), allow_pickle=True)
    objects = (folder / "objects.npz").read_bytes()
    for damaged in (b"", b"not an array", whole[:-10], whole[: len(whole) // 2], flipped, objects):
        path.write_bytes(damaged)
        assert equal(cached_arrays("digits-1", lambda: ARRAYS), ARRAYS)
        assert path.read_bytes()[: spot + 24] == whole[: spot + 24]
        assert equal(cached_arrays("digits-1", never), ARRAYS)


def test_without_a_writable_folder_arrays_are_made_all_the_same(folder: Path) -> None:
    folder.write_text("a file in the way")
    assert equal(cached_arrays("digits-1", lambda: ARRAYS), ARRAYS)
    assert folder.read_text() == "a file in the way"


def test_a_disk_that_fills_up_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.lib.format.write_array", fail)
    assert equal(cached_arrays("digits-1", lambda: ARRAYS), ARRAYS)
    assert list(folder.iterdir()) == []


def test_arrays_of_objects_are_refused_and_leave_nothing_behind(folder: Path) -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        cached_arrays("digits-1", lambda: {"names": np.array([None, "x"], dtype=object)})
    assert list(folder.iterdir()) == []


def test_an_error_while_making_is_passed_on(folder: Path) -> None:
    def fail() -> dict[str, Array]:
        raise LookupError("no such word")

    with pytest.raises(LookupError, match="no such word"):
        cached_arrays("digits-1", fail)
    assert not folder.exists()


def test_a_digest_changes_with_names_sizes_and_ends_and_with_nothing_else(tmp_path: Path) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_bytes(b"a" * 100)
    second.write_bytes(b"a" * 100)
    before = digest_of(first, second)
    assert len(before) == 16
    os.utime(first, (1, 1))
    assert digest_of(first, second) == before
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "first.txt").write_bytes(first.read_bytes())
    assert digest_of(elsewhere / "first.txt") == digest_of(first)
    digests = {before, digest_of(second, first), digest_of(first), digest_of(second)}
    second.write_bytes(b"a" * 101)
    digests.add(digest_of(first, second))
    second.write_bytes(b"a" * 50 + b"b" + b"a" * 49)
    digests.add(digest_of(first, second))
    assert len(digests) == 6


def test_a_digest_of_a_large_file_sees_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "large"
    zeros = bytearray(3 << 20)
    path.write_bytes(zeros)
    digests = [digest_of(path)]
    for spot in (0, (1 << 20) - 1, 2 << 20, -1, 1 << 20):
        changed = zeros.copy()
        changed[spot] = 1
        path.write_bytes(changed)
        digests.append(digest_of(path))
    assert len(set(digests)) == 5
    assert digests[-1] == digests[0]  # the first byte of the middle


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as context:
        context.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path / "codistill"
        context.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path.home() / ".cache" / "codistill"
