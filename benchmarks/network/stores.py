"""Stores on host a: an S3 API, and SSH's file transfer."""

import getpass
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

from faults.processes import pipe

from network.hosts import Host, NotAllowedError
from network.s3_server import BUCKET, serve_s3

Start = Callable[..., ForkServerProcess]

_START_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreServer:
    """A server with room for many runs."""

    url: str
    """A run's folder goes below it."""
    environment: Mapping[str, str]
    """What clients need to know."""


@contextmanager
def s3_store(start: Start, host: Host) -> Iterator[StoreServer]:
    """Yield an S3 server that holds nothing.

    Args:
        start: Starts a process.
        host: Where it runs.
    """
    ours, theirs = pipe()
    process = start(serve_s3, host, theirs)
    theirs.close()
    try:
        assert ours.poll(_START_S), "the S3 server did not start"
        yield StoreServer(
            url=f"s3://{BUCKET}",
            environment={
                "AWS_ACCESS_KEY_ID": "AKIAFAKEFAKEFAKEFAKE",
                "AWS_SECRET_ACCESS_KEY": "fake/Secret+0123456789",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_ENDPOINT_URL": f"http://{host.address}:{ours.recv()}",
            },
        )
    finally:
        ours.close()
        process.kill()
        process.join()


@contextmanager
def sftp_store(host: Host, folder: Path) -> Iterator[StoreServer]:
    """Yield OpenSSH's server, which lets this user in by a key.

    Args:
        host: Where it runs.
        folder: Where its keys and files go.

    Raises:
        NotAllowedError: If this system has none.
    """
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        raise NotAllowedError("this system has no sshd: install openssh-server")
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    for key in (folder / "host_key", home / ".ssh" / "id_ed25519"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
        subprocess.run(command, check=True)  # noqa: S603
    (folder / "authorized_keys").write_text((home / ".ssh" / "id_ed25519.pub").read_text())
    kind, public = (folder / "host_key.pub").read_text().split()[:2]
    (home / ".ssh" / "known_hosts").write_text(f"{host.address} {kind} {public}\n")
    config = folder / "sshd_config"
    config.write_text(
        f"ListenAddress {host.address}\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nAllowUsers {getpass.getuser()}\nSubsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own demand, for separating privileges
    # It ends when the input does, also if this process is killed.
    guarded = ("sh", "-c", '"$@" & cat; kill $!', "sh", program, "-D", "-e", "-f", str(config))
    server = subprocess.Popen(  # noqa: S603
        host.command(*guarded), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        assert "listening" in (said := server.stderr.readline()), f"sshd did not start: {said}"
        yield StoreServer(url=f"sftp://{host.address}{folder}/store", environment={"HOME": str(home)})
    finally:
        server.communicate()
