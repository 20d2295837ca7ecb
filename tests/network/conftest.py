import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# These tests and the benchmark use the same hosts; last, as other modules have the same names.
sys.path += [str(Path(__file__).parents[2] / "benchmarks")]


@pytest.fixture(scope="module")
def hosts() -> Iterator[object]:
    """Two hosts, joined by a link of 100 Mbit/s."""
    from network.hosts import NotAllowedError, two_hosts

    made = two_hosts("100Mbit")
    try:
        hosts = made.__enter__()
    except NotAllowedError as error:
        pytest.skip(f"no two hosts are to be had here, so no real network was tested: {error}")
    try:
        yield hosts
    finally:
        made.__exit__(None, None, None)


@pytest.fixture(scope="module")
def start() -> Iterator[object]:
    """A function that starts processes, which end with the module."""
    from faults.processes import processes

    with processes() as start:
        yield start


@pytest.fixture(scope="module")
def s3(hosts, start) -> Iterator[object]:
    """An S3 server on host a."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'codistill[s3]'")
    pytest.importorskip("moto", reason="moto is not installed: pip install 'codistill[dev]'")
    from network.stores import s3_store

    with s3_store(start, hosts.a) as server:
        yield server


@pytest.fixture(scope="module")
def sftp(hosts, tmp_path_factory) -> Iterator[object]:
    """An SFTP server on host a."""
    pytest.importorskip("paramiko", reason="paramiko is not installed: pip install 'codistill[sftp]'")
    from network.hosts import NotAllowedError
    from network.stores import sftp_store

    made = sftp_store(hosts.a, tmp_path_factory.mktemp("sftp"))
    try:
        server = made.__enter__()
    except NotAllowedError as error:
        pytest.skip(f"SFTP was not tested over a real network: {error}")
    try:
        yield server
    finally:
        made.__exit__(None, None, None)
