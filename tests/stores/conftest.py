"""Real servers on loopback, each a process that is ended by its own id."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fsspec import asyn


@pytest.fixture(scope="session")
def fsspec_loop() -> None:
    """The threads that fsspec keeps for all its connections, started before threads are counted."""
    loop, executor = asyn.get_loop(), ThreadPoolExecutor(max_workers=1)
    loop.call_soon_threadsafe(loop.set_default_executor, executor)
    executor.submit(int).result()


@contextmanager
def serve(program: str) -> Iterator[str]:
    """Run a program of this folder that prints the port it serves; yield its URL."""
    path = Path(__file__).with_name(program)
    server = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def ask(method: str, url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method=method)):
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    url: str

    def reset(self) -> None:
        """Leave one bucket, ``bucket``, which is empty."""
        ask("POST", f"{self.url}/moto-api/reset")
        ask("PUT", f"{self.url}/bucket")


@pytest.fixture(scope="session")
def s3_server(fsspec_loop) -> Iterator[S3Server]:
    """An S3 server."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'codistill[s3]'")
    pytest.importorskip("moto", reason="moto is not installed: pip install 'codistill[dev]'")
    with serve("s3_server.py") as url:
        yield S3Server(url=url)


@pytest.fixture(scope="module")
def aws(s3_server) -> Iterator[None]:
    """Made-up credentials for the server, and none of the user's own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFAKEFAKEFAKEFAKE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "fake/Secret+0123456789")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
        yield


@pytest.fixture
def s3(s3_server, aws) -> S3Server:
    """The server, for this process, with one bucket, ``bucket``, which is empty."""
    s3_server.reset()
    return s3_server


@pytest.fixture(scope="module")
def gcs_server(fsspec_loop) -> Iterator[str]:
    """The URL of a stand-in for Google Cloud Storage, to which this process talks."""
    pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install 'codistill[gcs]'")
    pytest.importorskip("flask", reason="flask is not installed: pip install 'codistill[dev]'")
    with serve("gcs_server.py") as url, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        yield url


@pytest.fixture
def gcs(gcs_server) -> str:
    """The stand-in, with one bucket, ``bucket``, which is empty."""
    ask("POST", f"{gcs_server}/reset")
    return gcs_server


@dataclass(frozen=True, slots=True, kw_only=True)
class SshServer:
    port: int
    home: Path
    """The user's home as the client sees it: keys, known_hosts."""
    known_host: str
    """The line of known_hosts."""
    log: Path


@pytest.fixture(scope="session")
def sshd(tmp_path_factory) -> Iterator[SshServer]:
    """OpenSSH's own server, which lets this user in by a key."""
    pytest.importorskip("paramiko", reason="paramiko is not installed: pip install 'codistill[sftp]'")
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("this system has no sshd, so SFTP was not tested: install openssh-server")
    folder = tmp_path_factory.mktemp("sshd")
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    for key in (folder / "host_key", home / ".ssh" / "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    shutil.copy(home / ".ssh" / "id_ed25519.pub", folder / "authorized_keys")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nAllowUsers "
        f"{getpass.getuser()}\nSubsystem sftp internal-sftp\nMaxStartups 100\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own demand, as root, for separating privileges
    log = folder / "log"
    with log.open("w") as errors:
        server = subprocess.Popen([program, "-D", "-e", "-f", str(config)], stderr=errors)
    try:
        wait_for(port, server, log)
        public = (folder / "host_key.pub").read_text().split()
        line = f"[127.0.0.1]:{port} {public[0]} {public[1]}\n"
        yield SshServer(port=port, home=home, known_host=line, log=log)
    finally:
        server.terminate()
        server.wait()


def wait_for(port: int, server: subprocess.Popen, log: Path) -> None:
    while server.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
    pytest.fail(f"sshd did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def ssh_home(sshd) -> Iterator[SshServer]:
    """The server, with the home of a user whom it lets in."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HOME", str(sshd.home))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        yield sshd


@pytest.fixture
def ssh(ssh_home) -> SshServer:
    """The server, which this user's ssh knows."""
    (ssh_home.home / ".ssh" / "known_hosts").write_text(ssh_home.known_host)
    return ssh_home


_FORKS = """
import os, sys
from codistill.stores import open_store
store = open_store(sys.argv[1])
store.write("a", b"parent")
child = os.fork()
if child == 0:
    assert store.read("a", max_bytes=10) == b"parent"
    store.write("b", b"child")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(store.read("b", max_bytes=10).decode())
"""


@pytest.fixture
def use_on_both_sides_of_a_fork() -> Callable[[str], None]:
    def run(url: str) -> None:
        command = [sys.executable, "-W", "ignore", "-c", _FORKS, url]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        assert done.stdout.strip() == "child", done.stderr

    return run
