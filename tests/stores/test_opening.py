from pathlib import Path

import pytest

from codistill.errors import StoreError
from codistill.stores.directory import DirectoryStore
from codistill.stores.memory import MemoryStore
from codistill.stores.opening import open_store
from codistill.stores.remote import RemoteStore
from codistill.stores.sftp import SftpStore


def test_a_store_is_returned_as_it_is():
    store = MemoryStore()
    assert open_store(store) is store


def test_paths_and_file_urls_are_directories(tmp_path):
    folder = tmp_path / "a folder"
    url = f"file://{tmp_path}/a%20folder"
    for store in (folder, str(folder), url, url.replace("file://", "FILE://localhost")):
        opened = open_store(store)
        assert isinstance(opened, DirectoryStore)
        assert opened.describe() == str(folder)


def test_urls_of_other_kinds_are_refused_with_those_that_exist_and_without_their_secrets():
    known = "file://, gcs://, gs://, memory://, s3://, sftp://, ssh://"
    with pytest.raises(ValueError, match=rf"URL of {known}, got a 'ftp://' URL\. Mount it") as caught:
        open_store("FTP://user:secret@host/run")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("store", ["s3:/bucket/run", Path("s3://user:secret@bucket/run")])
def test_half_a_url_is_not_taken_for_a_folder(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"got one slash after 's3:'\. Write 's3://'") as caught:
        open_store(store)
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert isinstance(open_store("./s3:/run"), DirectoryStore)


def test_a_url_opens_the_store_of_its_scheme(monkeypatch):
    monkeypatch.setattr(SftpStore, "_probe", lambda self: None)
    assert isinstance(open_store("sftp://host/run"), SftpStore)
    assert isinstance(open_store("SSH://host/run"), SftpStore)
    assert isinstance(open_store("memory://run"), RemoteStore)


@pytest.mark.parametrize("url", ["file://host/run", "file://"])
def test_a_file_url_of_another_host_is_refused(url):
    with pytest.raises(ValueError, match="store must be 'file:///'"):
        open_store(url)


def test_an_empty_path_is_refused():
    with pytest.raises(ValueError, match="store must name a folder, got ''"):
        open_store("")


@pytest.mark.parametrize("store", [None, 3, {}, b"bytes"])
def test_other_types_are_refused(store):
    with pytest.raises(TypeError, match="store must be a path"):
        open_store(store)


def test_open_store_to_read_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"store must be a folder that is there, got '.*misspelt'"):
        open_store(tmp_path / "misspelt", is_read_only=True)
    assert list(tmp_path.iterdir()) == []
    assert open_store(tmp_path, is_read_only=True).list_names("", limit=1) == []
