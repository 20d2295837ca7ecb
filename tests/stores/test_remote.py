import os
import socket
import sys

import pytest
from botocore.exceptions import ClientError
from fsspec.implementations.memory import MemoryFileSystem

from codistill.errors import ExtraMissingError, KeyMissingError, StoreError
from codistill.stores import open_store, remote
from codistill.stores.remote import RemoteStore
from codistill.testing.stores import StoreContract

# aiohttp means the loop of an application; this one is fsspec's own thread.
large_bodies = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")


@pytest.fixture
def memory():
    yield
    MemoryFileSystem.store.clear()


class TestMemoryUrl(StoreContract):
    @pytest.fixture
    def store(self, memory):
        return RemoteStore("memory://tests/run-7")


@pytest.fixture(scope="module")
def bucket(s3_server, aws):
    # One for all tests of the contract: each new one connects and asks for credentials.
    s3_server.reset()
    return RemoteStore("s3://bucket/runs/run-7")


@pytest.mark.spawn
class TestS3(StoreContract):
    rounds = 10

    @pytest.fixture
    def store(self, s3, bucket):
        return bucket


@pytest.fixture(scope="module")
def gcs_bucket(gcs_server):
    return RemoteStore("gs://bucket/runs/run-7")


@pytest.mark.spawn
@large_bodies
class TestGcs(StoreContract):
    rounds = 10

    @pytest.fixture
    def store(self, gcs, gcs_bucket):
        return gcs_bucket


def texts(error):
    """All that a traceback would show."""
    while error is not None:
        yield str(error)
        yield repr(error)
        error = error.__cause__ or error.__context__


def assert_hidden(error, *secrets):
    assert not [text for text in texts(error) for secret in secrets if secret in text]


def s3_error(code, kind=OSError):
    """What s3fs raises for an answer of S3."""
    error = kind(code)
    error.__cause__ = ClientError({"Error": {"Code": code}}, "PutObject")
    return error


def calls_that(monkeypatch, verb, *results):
    """Replace a verb of fsspec's memory by scripted results; return the list of its calls."""
    calls, script = [], list(results)

    def answer(self, *args, **kwargs):
        calls.append((args, kwargs))
        result = script.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(MemoryFileSystem, verb, answer)
    return calls


def test_two_stores_on_one_url_see_the_same(memory):
    RemoteStore("memory://run/").write("a/latest.json", b"x")
    store = open_store("MEMORY://run")
    assert store.read("a/latest.json", max_bytes=10) == b"x"
    assert store.describe() == "memory://run"
    assert open_store("memory://run/a").list_names("", limit=10) == ["latest.json"]


def test_in_memory_every_verb_runs_under_one_lock(memory, monkeypatch):
    store = RemoteStore("memory://run")
    locked = []
    for verb in ("cat_file", "pipe_file", "rm_file", "ls"):
        monkeypatch.setattr(
            MemoryFileSystem, verb, lambda *_, **__: locked.append(remote._memory_lock.locked()) or b""
        )
    store.read("a", max_bytes=1)
    store.write("a", b"")
    store.create("a", b"")
    store.delete("a")
    store.list_names("a", limit=1)
    assert locked == [True] * 5


def test_opening_leaves_nothing_behind(memory):
    store = RemoteStore("memory://run")
    assert store.list_names("", limit=10) == []
    assert MemoryFileSystem.store == {}


def test_opening_to_read_writes_nothing(memory, monkeypatch):
    calls = calls_that(monkeypatch, "pipe_file")
    assert RemoteStore("memory://run", is_read_only=True).list_names("", limit=1) == []
    assert calls == []


def test_a_backend_whose_create_replaces_is_refused(memory, monkeypatch):
    pipe_file = MemoryFileSystem.pipe_file
    monkeypatch.setattr(
        MemoryFileSystem, "pipe_file", lambda self, path, value, mode: pipe_file(self, path, value)
    )
    with pytest.raises(StoreError, match=r"memory://run must know conditional writes \(If-None-Match\)"):
        RemoteStore("memory://run")
    assert MemoryFileSystem.store == {}


def test_a_refused_condition_counts_as_a_value_that_is_there(memory, monkeypatch):
    store = RemoteStore("memory://run")
    calls_that(monkeypatch, "pipe_file", s3_error("PreconditionFailed"), s3_error("412"))
    assert [store.create("a", b"x"), store.create("a", b"x")] == [False, False]


def test_a_create_that_meets_another_is_tried_again(memory, monkeypatch):
    store = RemoteStore("memory://run")
    calls = calls_that(
        monkeypatch, "pipe_file", s3_error("ConditionalRequestConflict"), s3_error("409"), None
    )
    assert store.create("a", b"x") is True
    assert len(calls) == 3
    calls_that(monkeypatch, "pipe_file", *[s3_error("409")] * 5)
    with pytest.raises(StoreError, match="could not create 'a'"):
        store.create("a", b"x")


def test_a_read_beyond_the_end_is_empty_however_the_server_says_it(memory, monkeypatch):
    class HttpError(Exception):
        code = 416

    store = RemoteStore("memory://run")
    calls_that(monkeypatch, "cat_file", s3_error("InvalidRange"), s3_error("416"), HttpError())
    assert [store.read("a", max_bytes=1, start=9) for _ in range(3)] == [b""] * 3


def test_a_bucket_that_vanished_is_no_missing_key(memory, monkeypatch):
    store = RemoteStore("memory://run")
    for verb in ("cat_file", "rm_file", "ls"):
        calls_that(monkeypatch, verb, s3_error("NoSuchBucket", FileNotFoundError))
    for act in (
        lambda: store.read("a", max_bytes=1),
        lambda: store.delete("a"),
        lambda: store.list_names("a", limit=1),
    ):
        with pytest.raises(
            StoreError, match=r"memory://run could not \w+ 'a' \(NoSuchBucket\)\. Make"
        ) as caught:
            act()
        assert caught.value.key == "a"
        assert not isinstance(caught.value, KeyMissingError)


def test_other_errors_name_verb_key_and_reason(memory, monkeypatch):
    store = RemoteStore("memory://run")
    for verb in ("cat_file", "pipe_file", "rm_file", "ls"):
        calls_that(monkeypatch, verb, RuntimeError("of\nmany lines"), RuntimeError())
    for act in (
        lambda: store.read("a", max_bytes=1),
        lambda: store.write("a", b""),
        lambda: store.delete("a"),
        lambda: store.list_names("a", limit=1),
    ):
        with pytest.raises(StoreError, match=r"could not \w+ 'a' \(of many lines\)\. Check that") as caught:
            act()
        assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(StoreError, match=r"could not create 'a' \(RuntimeError\)"):
        store.create("a", b"")


def test_names_that_begin_with_a_dot_and_markers_of_folders_are_not_listed(memory, monkeypatch):
    store = RemoteStore("memory://run")
    calls_that(monkeypatch, "ls", ["/run/a/", "/run/a/.tmp", "/run/a/b/", "/run/a/b", "/run/a/c"])
    assert store.list_names("a", limit=10) == ["b", "c"]


def test_a_missing_source_file_is_the_callers_error(memory, tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such-file") as caught:
        RemoteStore("memory://run").write("a", tmp_path / "no-such-file")
    assert not isinstance(caught.value, StoreError)


@pytest.mark.parametrize(
    ("url", "package", "extra"), [("s3://bucket/run", "s3fs", "s3"), ("gs://bucket/run", "gcsfs", "gcs")]
)
def test_a_missing_extra_is_named(url, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtraMissingError, match=rf"{package} must be .* pip install 'codistill\[{extra}\]'"):
        open_store(url)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("s3://key:hush@bucket/run", "without credentials"),
        ("s3://key:hu/sh@bucket/run", "name of a bucket"),
        ("s3://bucket/run?hush", "without query"),
        ("s3://bucket/run#hush", "without query"),
        ("s3://bucket/hush\n", "without query"),
        ("s3://bucket/hush//run", "without empty"),
        ("s3://bucket/../hush", "without empty"),
        ("s3://", "name of a bucket"),
        ("s3:///hush", "name of a bucket"),
        ("memory://", "name of a bucket"),
    ],
)
def test_malformed_urls_are_refused_and_not_quoted(url, rule):
    with pytest.raises(ValueError, match=rf"store must .*{rule}") as caught:
        open_store(url)
    assert_hidden(caught.value, "hush", "sh@", "key:")


def test_a_scheme_of_another_store_is_refused():
    with pytest.raises(ValueError, match="url must begin with one of s3://, gs://"):
        RemoteStore("ftp://host/run")


@pytest.mark.spawn
def test_a_bucket_that_is_not_there_is_refused_at_once(s3):
    for is_read_only in (False, True):
        with pytest.raises(
            StoreError, match=r"s3://no-such-bucket/run could not .*\. Make the bucket"
        ) as caught:
            open_store("s3://no-such-bucket/run", is_read_only=is_read_only)
        assert_hidden(caught.value, os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"])


@pytest.mark.spawn
def test_a_host_that_cannot_be_reached_is_refused_without_secrets(s3, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setattr(remote, "ATTEMPTS", 1)
        with pytest.raises(
            StoreError, match=r"s3://bucket/run could not be written to \(.*connect"
        ) as caught:
            open_store("s3://bucket/run")
    assert_hidden(caught.value, os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"])


@pytest.mark.spawn
def test_a_server_that_never_answers_is_given_up(s3, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(remote, "OPEN_TIMEOUT_S", 0.1)
        with pytest.raises(StoreError, match=r"could not be written to \(it took too long\)"):
            open_store("s3://bucket/run")


def test_without_credentials_opening_says_so(fsspec_loop, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'codistill[s3]'")
    with pytest.raises(
        StoreError, match=r"\(Unable to locate credentials\)\. Check that there are credentials"
    ):
        open_store("s3://bucket/run")


@pytest.mark.spawn
@large_bodies
@pytest.mark.parametrize(
    ("url", "kind"), [("s3://bucket/run", remote._Sliced), ("gs://bucket/run", memoryview)]
)
def test_a_large_view_is_uploaded_in_pieces_without_a_copy_of_the_whole(s3, gcs, monkeypatch, url, kind):
    monkeypatch.setattr(remote, "_ONE_REQUEST_BYTES", 2**20)
    store = open_store(url)
    filesystem = store._filesystem()
    upload = type(filesystem)._pipe_file
    kinds = []

    async def in_pieces(self, path, data, **options):
        kinds.append(type(data))
        return await upload(self, path, data, chunksize=5 * 2**20, **options)

    monkeypatch.setattr(type(filesystem), "_pipe_file", in_pieces)
    content = bytes(range(256)) * (11 * 2**12)  # S3's pieces are 5 MiB at least
    store.write("a", memoryview(content))
    assert kinds == [kind]
    assert store.read("a", max_bytes=20 * 2**20) == content
    assert store.list_names("", limit=10) == ["a"]


@pytest.mark.spawn
def test_a_forked_child_and_its_parent_both_go_on(s3, use_on_both_sides_of_a_fork):
    use_on_both_sides_of_a_fork("s3://bucket/run")


def test_gcs_is_opened_with_bounded_requests_and_without_caches(fsspec_loop, monkeypatch):
    core = pytest.importorskip("gcsfs.core", reason="gcsfs is not installed: pip install 'codistill[gcs]'")
    options = {}
    monkeypatch.setattr(core, "GCSFileSystem", lambda **given: options.update(given))
    remote._OPENERS["gs"]()
    timeout = options.pop("requests_timeout")
    assert (timeout.sock_connect, timeout.sock_read) == (remote.CONNECT_TIMEOUT_S, remote.READ_TIMEOUT_S)
    assert options == {"skip_instance_cache": True, "use_listings_cache": False}
