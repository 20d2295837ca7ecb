import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from network.hosts import INTERFACE, NotAllowedError, two_hosts

pytestmark = pytest.mark.spawn

_PORT = 5000
_RECEIVE = f"""
import socket
server = socket.create_server(("", {_PORT}))
print(flush=True)
connection, _ = server.accept()
total = 0
while content := connection.recv(65536):
    total += len(content)
connection.sendall(b"!")
print(total, flush=True)
"""
_SEND = f"""
import socket, sys
connection = socket.create_connection((sys.argv[1], {_PORT}))
connection.sendall(bytes(int(sys.argv[2])))
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
"""
_RECEIVE_ONE = f"""
import socket
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("", {_PORT}))
print(flush=True)
print(server.recv(100).decode(), flush=True)
"""
_SEND_ONE = f"""
import socket, sys
socket.socket(type=socket.SOCK_DGRAM).sendto(sys.argv[2].encode(), (sys.argv[1], {_PORT}))
"""


def listen(host, program):
    """Run a program on a host; return it when it listens."""
    process = subprocess.Popen(host.command(sys.executable, "-c", program), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "\n"
    return process


def send(hosts, program, *words):
    """Run a program on host b that sends to host a."""
    command = hosts.b.command(sys.executable, "-c", program, hosts.a.address, *words)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_bytes_on_the_link_are_whole_frames_with_all_their_headers(hosts):
    size = 1_448_000
    with listen(hosts.a, _RECEIVE) as receiver:
        before = hosts.count()
        assert send(hosts, _SEND, f"{size}").returncode == 0
        traffic = hosts.count() - before
        assert receiver.stdout.readline() == f"{size}\n"
    # 1000 full frames; with a connection that begins and ends, and now and then a frame that is not full.
    assert 1_514_000 < traffic.to_a_bytes < 1_514_000 * 1.01
    # An acknowledgement of 66 bytes for every frame at most.
    assert 0 < traffic.to_b_bytes < 1100 * 66


def test_both_ends_of_the_link_are_limited_to_its_rate(hosts):
    for host in (hosts.a, hosts.b):
        assert "qdisc tbf" in (shown := host.run("tc", "qdisc", "show", "dev", INTERFACE))
        assert "rate 100Mbit" in shown


@pytest.mark.parametrize(("how", "is_told"), [("silent", False), ("down", True)])
def test_what_is_sent_over_a_cut_link_is_lost_and_what_is_sent_afterwards_arrives(hosts, how, is_told):
    with listen(hosts.a, _RECEIVE_ONE) as receiver:
        with hosts.cut(how):
            # Host b knows of its own interface, and of nothing else.
            assert (send(hosts, _SEND_ONE, "lost").returncode != 0) == is_told
        assert send(hosts, _SEND_ONE, "arrived").returncode == 0
        assert receiver.stdout.readline() == "arrived\n"


def test_nothing_is_left_of_hosts_whatever_happens_on_them(hosts):
    def interfaces():
        return sorted(Path("/sys/class/net").iterdir())

    before, keepers = interfaces(), []

    def fail():
        with two_hosts("1Gbit") as others:
            keepers.extend(Path(f"/proc/{host.process}") for host in (others.a, others.b))
            assert all(keeper.exists() for keeper in keepers)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(keepers) == 2
    assert not any(keeper.exists() for keeper in keepers)
    assert interfaces() == before


def test_hosts_end_with_a_process_that_is_killed(hosts):
    program = (
        "import signal, sys\n"
        "from network.hosts import two_hosts\n"
        "with two_hosts('1Gbit') as hosts:\n"
        "    print(hosts.a.process, hosts.b.process, flush=True)\n"
        "    signal.pause()\n"
    )
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    maker = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(benchmarks)},
    )
    with maker:
        keepers = [os.pidfd_open(int(word)) for word in maker.stdout.readline().split()]
        maker.kill()
    assert len(keepers) == 2
    for keeper in keepers:
        ended, _, _ = select.select([keeper], [], [], 30.0)
        os.close(keeper)
        assert ended


def test_who_may_not_make_hosts_is_told_why(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotAllowedError, match="there is no ip and no tc"), two_hosts("100Mbit"):
        pass
