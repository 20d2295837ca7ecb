import errno
import os
import stat
from pathlib import Path

import pytest

from codistill.errors import KeyMissingError, StoreError
from codistill.stores.directory import DirectoryStore
from codistill.testing.stores import StoreContract


class TestDirectoryStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return DirectoryStore(tmp_path / "run")


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def hidden_files(folder):
    return [path for path in folder.rglob(".*") if path.is_file()]


def test_the_folder_is_made_with_its_parents(tmp_path):
    store = DirectoryStore(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert store.describe() == str(tmp_path / "a" / "b")
    assert store.list_names("", limit=10) == []


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = DirectoryStore("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.write("a", b"x")
    assert (tmp_path / "run" / "a").read_bytes() == b"x"


def test_two_stores_on_one_folder_see_the_same(tmp_path):
    DirectoryStore(tmp_path).write("a/latest.json", b"x")
    assert DirectoryStore(str(tmp_path)).read("a/latest.json", max_bytes=10) == b"x"


def test_a_file_in_the_way_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=r"store must be a folder .*file.* Choose another folder"):
            DirectoryStore(path)


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(StoreError, match=r"got '.*run' \(Permission denied\)"):
        DirectoryStore(tmp_path / "run")


def test_values_have_the_permissions_of_the_umask(tmp_path):
    store = DirectoryStore(tmp_path)
    before = os.umask(0o027)
    try:
        store.write("a", b"x")
        store.create("b", b"x")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o640, 0o640]


def test_no_temporary_file_is_left(tmp_path):
    store = DirectoryStore(tmp_path)
    store.write("a/b", b"x")
    store.create("a/c", b"x")
    store.create("a/c", b"y")
    assert hidden_files(tmp_path) == []


def test_temporary_files_of_a_killed_process_are_not_listed(tmp_path):
    store = DirectoryStore(tmp_path)
    (tmp_path / ".0123.tmp").write_bytes(b"part")
    assert store.list_names("", limit=10) == []


@pytest.mark.parametrize(
    ("system_call", "verb", "key"), [("replace", "write", "a/b"), ("hardlink_to", "create", "a/c")]
)
def test_a_full_disk_leaves_the_old_value_and_no_temporary_file(
    tmp_path, monkeypatch, system_call, verb, key
):
    store = DirectoryStore(tmp_path)
    store.write("a/b", b"old")
    monkeypatch.setattr(Path, system_call, no_space)
    with pytest.raises(StoreError, match=rf"could not {verb} '{key}' \(No space .*space left\.") as caught:
        getattr(store, verb)(key, b"new")
    assert caught.value.key == key
    assert isinstance(caught.value.__cause__, OSError)
    assert store.read("a/b", max_bytes=10) == b"old"
    assert store.list_names("a", limit=10) == ["b"]
    assert hidden_files(tmp_path) == []


def test_a_write_that_fails_halfway_removes_its_temporary_file(tmp_path, monkeypatch):
    store = DirectoryStore(tmp_path / "run")
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    monkeypatch.setattr("codistill.stores.directory.shutil.copyfileobj", no_space)
    with pytest.raises(StoreError, match="space left"):
        store.write("a/b", source)
    assert hidden_files(tmp_path) == []


def test_a_missing_source_file_is_the_callers_error(tmp_path):
    store = DirectoryStore(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="no-such-file") as caught:
        store.write("a", tmp_path / "no-such-file")
    assert not isinstance(caught.value, StoreError)


def test_a_file_system_without_hard_links_is_named_as_such(tmp_path, monkeypatch):
    def refuse(self, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    store = DirectoryStore(tmp_path)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(StoreError, match="file system with hard links") as caught:
        store.create("a/run.json", b"x")
    assert caught.value.key == "a/run.json"
    assert hidden_files(tmp_path) == []


def test_a_link_whose_answer_was_lost_counts_as_made(tmp_path, monkeypatch):
    link = Path.hardlink_to

    def link_and_lose_the_answer(self, target):
        link(self, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    store = DirectoryStore(tmp_path)
    monkeypatch.setattr(Path, "hardlink_to", link_and_lose_the_answer)
    assert store.create("a", b"x") is True
    assert store.read("a", max_bytes=10) == b"x"


def test_a_write_makes_a_folder_again_that_vanished_meanwhile(tmp_path, monkeypatch):
    mkdir, vanished = Path.mkdir, []

    def mkdir_and_vanish(self, *args, **kwargs):
        mkdir(self, *args, **kwargs)
        if self.name == "b" and len(vanished) < 3:
            self.rmdir()
            vanished.append(self)

    store = DirectoryStore(tmp_path)
    monkeypatch.setattr(Path, "mkdir", mkdir_and_vanish)
    store.write("a/b/c", b"x")
    assert len(vanished) == 3
    assert store.read("a/b/c", max_bytes=10) == b"x"


def test_a_value_in_place_of_a_folder_is_a_store_error(tmp_path):
    store = DirectoryStore(tmp_path)
    store.write("a", b"x")
    with pytest.raises(StoreError, match="could not write 'a/b'"):
        store.write("a/b", b"y")
    assert store.read("a", max_bytes=10) == b"x"


def test_delete_prunes_empty_folders_but_never_the_root(tmp_path):
    store = DirectoryStore(tmp_path / "run")
    store.write("a/b/c", b"x")
    store.write("a/d", b"x")
    store.delete("a/b/c")
    assert not (tmp_path / "run" / "a" / "b").exists()
    store.delete("a/d")
    assert list((tmp_path / "run").iterdir()) == []


def test_other_errors_of_the_system_name_the_key(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise OSError(errno.EIO, "Input/output error")

    store = DirectoryStore(tmp_path)
    store.write("a", b"x")
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    for act in (
        lambda: store.read("a", max_bytes=1),
        lambda: store.delete("a"),
        lambda: store.list_names("a", limit=1),
    ):
        with pytest.raises(StoreError, match=r"could not \w+ 'a' \(Input/output error\)") as caught:
            act()
        assert caught.value.key == "a"
        assert not isinstance(caught.value, KeyMissingError)


def test_a_named_pipe_is_no_value_and_holds_nobody_up(tmp_path):
    store = DirectoryStore(tmp_path)
    os.mkfifo(tmp_path / "latest.json")
    with pytest.raises(KeyMissingError):
        store.read("latest.json", max_bytes=10)
    with pytest.raises(KeyMissingError):
        store.read_into("latest.json", memoryview(bytearray(10)))


def test_sweeping_removes_what_killed_writes_have_left_and_nothing_else(tmp_path):
    store = DirectoryStore(tmp_path)
    store.write("a/snapshots/0-1/manifest.json", b"{}")
    torn = [tmp_path / "a/snapshots/0-2/.1f.tmp", tmp_path / "a/snapshots/0-1/.2f.tmp"]
    elsewhere = tmp_path / "b/.3f.tmp"
    for file in (*torn, elsewhere):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"part")
    store.sweep("a/snapshots")
    assert not any(file.exists() for file in torn)
    assert not (tmp_path / "a/snapshots/0-2").exists()
    assert elsewhere.exists()
    assert store.read("a/snapshots/0-1/manifest.json", max_bytes=9) == b"{}"
