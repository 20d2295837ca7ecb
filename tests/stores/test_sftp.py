import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from codistill.errors import ExtraMissingError, StoreError
from codistill.extras import require
from codistill.stores import open_store
from codistill.stores import ssh as ssh_module
from codistill.stores.sftp import SftpStore
from codistill.testing.stores import StoreContract


@pytest.fixture(scope="module")
def folder(ssh_home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sftp") / "runs" / "run-7"
    (ssh_home.home / ".ssh" / "known_hosts").write_text(ssh_home.known_host)
    # One for all tests of the contract: each new one logs in.
    store = SftpStore(f"sftp://127.0.0.1:{ssh_home.port}{folder}")
    yield store, folder
    store.close()


@pytest.mark.spawn
class TestSftp(StoreContract):
    rounds = 10

    @pytest.fixture
    def store(self, folder):
        store, path = folder
        shutil.rmtree(path)
        path.mkdir()
        return store


@pytest.fixture
def opened(ssh):
    """Open stores on the server, and end their logins after the test."""
    stores = []

    def open_and_keep(path, *, user="", **options):
        stores.append(SftpStore(f"sftp://{user}127.0.0.1:{ssh.port}{path}", **options))
        return stores[-1]

    yield open_and_keep
    for store in stores:
        store.close()


def texts(error):
    """All that a traceback would show."""
    while error is not None:
        yield str(error)
        yield repr(error)
        error = error.__cause__ or error.__context__


def hidden_files(folder):
    return [path for path in folder.rglob(".*") if path.is_file()]


@pytest.mark.spawn
def test_the_folder_is_made_with_its_parents_and_left_empty(opened, ssh, tmp_path):
    store = opened(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert store.describe() == f"sftp://127.0.0.1:{ssh.port}{tmp_path}/a/b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.spawn
def test_opening_to_read_makes_no_folder(opened, tmp_path):
    with pytest.raises(StoreError, match="misspelt must be a folder that is there"):
        opened(tmp_path / "misspelt", is_read_only=True)
    assert opened(tmp_path, is_read_only=True).list_names("", limit=1) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.spawn
def test_a_file_in_the_way_is_refused_at_once(opened, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"file/below could not be opened \(.*\)\. Check that"):
        opened(tmp_path / "file" / "below")


@pytest.mark.spawn
def test_no_temporary_file_is_left(opened, tmp_path):
    store = opened(tmp_path)
    store.write("a/b", b"x")
    assert [store.create("a/c", b"x"), store.create("a/c", b"y")] == [True, False]
    with pytest.raises(StoreError, match="could not write 'a'"):
        store.write("a", b"in place of a folder")
    assert hidden_files(tmp_path) == []
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b", "c"]


@pytest.mark.spawn
def test_a_path_from_home_is_that_of_the_server(opened, ssh):
    store = opened("/~", is_read_only=True)
    assert store.describe() == f"sftp://127.0.0.1:{ssh.port}/~"
    assert store.list_names("no-such-folder", limit=1) == []


@pytest.mark.spawn
def test_a_lost_login_is_made_again(opened, tmp_path):
    store = opened(tmp_path)
    store.write("a", b"x")
    store._connections[os.getpid()]._client.get_transport().close()
    assert store.read("a", max_bytes=10) == b"x"
    store.close()
    assert store.read("a", max_bytes=10) == b"x"


@pytest.mark.spawn
@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="this system has no /dev/full to stand for a full disk"
)
@pytest.mark.parametrize("size_bytes", [1, 200_000])
def test_a_full_disk_leaves_the_old_value(opened, tmp_path, monkeypatch, size_bytes):
    store = opened(tmp_path)
    store.write("a", b"old")

    def open_on_a_full_disk(self, sftp, key):
        (tmp_path / ".staged").touch()
        return str(tmp_path / ".staged"), sftp.open("/dev/full", "wb")

    monkeypatch.setattr(SftpStore, "_open_beside", open_on_a_full_disk)
    with pytest.raises(StoreError, match=r"could not write 'a' \(Failure\).*space left") as caught:
        store.write("a", b"x" * size_bytes)
    assert caught.value.key == "a"
    assert store.read("a", max_bytes=10) == b"old"
    assert hidden_files(tmp_path) == []


@pytest.mark.spawn
def test_an_unknown_server_is_refused_with_the_way_to_add_it(opened, ssh, tmp_path):
    (ssh.home / ".ssh" / "known_hosts").write_text("")
    with pytest.raises(
        StoreError, match=rf"'127.0.0.1' must be in known_hosts.* ssh-keyscan -p {ssh.port} 127"
    ):
        opened(tmp_path / "run")
    assert (ssh.home / ".ssh" / "known_hosts").read_text() == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.spawn
def test_a_server_with_another_key_is_refused(opened, ssh, tmp_path):
    other = (ssh.home / ".ssh" / "id_ed25519.pub").read_text().split()[1]
    (ssh.home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{ssh.port} ssh-ed25519 {other}\n")
    with pytest.raises(StoreError, match=rf"shows another.* ssh-keygen -R '\[127.0.0.1\]:{ssh.port}'"):
        opened(tmp_path / "run")


@pytest.mark.spawn
def test_a_password_is_shown_nowhere(opened, ssh, tmp_path, caplog):
    caplog.set_level("DEBUG")
    with pytest.raises(StoreError, match=r"could not be opened \(.*[Aa]uthentication.*\)") as caught:
        opened(tmp_path / "run", user="somebody:hush%2Fhush@")
    assert f"sftp://127.0.0.1:{ssh.port}{tmp_path}/run" in str(caught.value)
    for text in (*texts(caught.value), caplog.text):
        assert "hush" not in text


@pytest.mark.spawn
def test_settings_of_the_ssh_configuration_apply(ssh, tmp_path):
    config = ssh.home / ".ssh" / "config"
    config.write_text(
        f"Host cluster\n  HostName 127.0.0.1\n  Port {ssh.port}\nHost far\n  ProxyJump cluster\n"
    )
    try:
        store = SftpStore(f"ssh://cluster{tmp_path}")
        store.write("a", b"x")
        store.close()
        with pytest.raises(StoreError, match=r"'far' must be reached without a proxy"):
            SftpStore(f"ssh://far{tmp_path}")
    finally:
        config.unlink()
    assert (tmp_path / "a").read_bytes() == b"x"


@pytest.mark.spawn
def test_a_server_without_the_two_renames_is_refused(opened, tmp_path, monkeypatch):
    client = require("paramiko", "sftp").SFTPClient
    posix_rename = client.posix_rename

    def refuse(self, old, new):
        raise OSError("Operation unsupported")

    monkeypatch.setattr(client, "posix_rename", refuse)
    with pytest.raises(StoreError, match=r"knows posix-rename@openssh\.com"):
        opened(tmp_path / "a")
    monkeypatch.setattr(client, "posix_rename", posix_rename)
    monkeypatch.setattr(client, "rename", posix_rename)
    with pytest.raises(StoreError, match="rename fails if there is a file"):
        opened(tmp_path / "b")
    assert [list((tmp_path / name).iterdir()) for name in "ab"] == [[], []]


@pytest.mark.spawn
def test_a_forked_child_and_its_parent_both_go_on(ssh, tmp_path, use_on_both_sides_of_a_fork):
    use_on_both_sides_of_a_fork(f"sftp://127.0.0.1:{ssh.port}{tmp_path}")


def test_a_port_where_nobody_listens_is_refused_at_once(tmp_path):
    pytest.importorskip("paramiko", reason="paramiko is not installed: pip install 'codistill[sftp]'")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(StoreError, match=r"could not be opened \(.*refused\)\. Check"):
            SftpStore(f"sftp://user:hush@127.0.0.1:{unused.getsockname()[1]}/run")


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    pytest.importorskip("paramiko", reason="paramiko is not installed: pip install 'codistill[sftp]'")
    monkeypatch.setattr(ssh_module, "CONNECT_TIMEOUT_S", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(StoreError, match=r"could not be opened \(Error reading SSH protocol banner\)"):
            SftpStore(f"sftp://user:hush@127.0.0.1:{silent.getsockname()[1]}/run")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(ExtraMissingError, match=r"paramiko must be .* pip install 'codistill\[sftp\]'"):
        open_store("sftp://host/run")


@pytest.mark.parametrize(
    "url",
    [
        "sftp://host",
        "sftp:///run",
        "sftp://user:hu/sh@host/run",
        "sftp://user:hush@host:port/run",
        "sftp://user:hush@ho:st:22/run",
        "sftp://user:hush@[::1/run",
        "sftp://user:hush@host/run?x",
    ],
)
def test_malformed_urls_are_refused_and_not_quoted(url):
    with pytest.raises(ValueError, match="store must be") as caught:
        open_store(url)
    assert "hu" not in str(caught.value)


def test_parts_of_the_url_are_decoded_once(monkeypatch):
    monkeypatch.setattr(SftpStore, "_probe", lambda self: None)
    store = SftpStore("sftp://me%40work:p%2Fw@[::1]:2222/a%20folder/run/")
    assert store._login == {"host": "::1", "port": 2222, "user": "me@work", "password": "p/w"}
    assert store.describe() == "sftp://[::1]:2222/a folder/run"
    assert store._path("a/b") == "/a folder/run/a/b"
    store = SftpStore("sftp://host/~/runs/run-7")
    assert store._login == {"host": "host", "port": None, "user": None, "password": None}
    assert store._path("a") == "runs/run-7/a"
