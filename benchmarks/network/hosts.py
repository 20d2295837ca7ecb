"""Two hosts and the link that joins them: network namespaces, a pair of virtual interfaces, and its rate."""

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

INTERFACE: Final = "link0"
"""What both hosts call their end of the link."""
BIT_RATES: Final[Mapping[str, int]] = MappingProxyType({"100Mbit": 100_000_000, "1Gbit": 1_000_000_000})
"""Rates as ``tc`` writes them -> bits a second."""

# For documentation (RFC 5737): nobody has them.
_ADDRESSES: Final = ("192.0.2.1", "192.0.2.2")
_NOWHERE: Final = "02:00:00:00:00:00"
_PROGRAMS: Final = ("ip", "tc", "nsenter", "unshare", "cat")
_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET of setns(2)
_QUEUE_MS: Final = 50


class NotAllowedError(Exception):
    """This process may make no network namespaces, or no link of a given rate."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes on the link, as its interfaces count them: whole frames, and all of them."""

    to_b_bytes: int
    """From host a to host b."""
    to_a_bytes: int
    """From host b to host a."""

    def __sub__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.to_b_bytes - other.to_b_bytes, self.to_a_bytes - other.to_a_bytes)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One of the two."""

    name: str
    """"a" or "b"."""
    process: int
    """Whose network namespace it is; it does nothing but keep it."""
    address: str
    """Of its end of the link."""

    def enter(self) -> None:
        """Let this thread, and those that it will start, be on this host."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/proc/{self.process}/ns/net").open() as namespace:
            if libc.setns(namespace.fileno(), _NEW_NETWORK) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter host {self.name}")

    def command(self, *words: str) -> list[str]:
        """Return the command that runs another one on this host; it replaces itself by it."""
        return ["nsenter", f"--net=/proc/{self.process}/ns/net", *words]

    def run(self, *words: str) -> str:
        """Run a command on this host and return what it prints."""
        command = self.command(*words)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)  # noqa: S603
        if done.returncode != 0:
            raise NotAllowedError(f"{' '.join(words)!r} failed: {' '.join(done.stderr.split())}")
        return done.stdout


@final
class TwoHosts:
    """Two hosts that one link joins, and nothing else.

    Each end of the link lets a frame of 1514 bytes at most go at a time, as an Ethernet does, at the rate
    of the link. There is no delay but that of a queue of 50 ms before it.

    Attributes:
        a: The host where the store is.
        b: The other.
    """

    def __init__(self, a: Host, b: Host) -> None:
        self.a, self.b = a, b
        self._macs = {
            host.name: json.loads(host.run("ip", "-j", "link", "show", INTERFACE))[0]["address"]
            for host in (a, b)
        }

    def count(self) -> Traffic:
        """Return what has crossed the link so far."""
        to_b_bytes, to_a_bytes = _counters(self.b.process)
        return Traffic(to_b_bytes, to_a_bytes)

    @contextmanager
    def cut(self, how: str) -> Iterator[None]:
        """Cut the link within the block.

        Args:
            how: "silent": whatever is sent gets lost somewhere between the hosts, and nobody is told;
                "down": host b's own interface is down, which it notices at once.
        """
        if how == "down":
            self.b.run("ip", "link", "set", INTERFACE, "down")
        else:
            self._resolve(lambda _: _NOWHERE)
        try:
            yield
        finally:
            if how == "down":
                self.b.run("ip", "link", "set", INTERFACE, "up")
            else:
                self._resolve(lambda host: self._macs[host.name])

    def _resolve(self, mac: Callable[[Host], str]) -> None:
        """Tell each host where the other one is to be found."""
        for host, other in ((self.a, self.b), (self.b, self.a)):
            neighbour = ("neigh", "replace", other.address, "lladdr", mac(other))
            host.run("ip", *neighbour, "dev", INTERFACE, "nud", "permanent")


@contextmanager
def two_hosts(rate: str) -> Iterator[TwoHosts]:
    """Yield two hosts joined by a link of a rate of `BIT_RATES`.

    Nothing of them has a name outside: they are gone when the processes that keep them are, which end with
    this one at the latest, however it ends.

    Raises:
        NotAllowedError: If this process may not, with what hinders it.
    """
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        raise NotAllowedError(f"there is no {' and no '.join(missing)}: install iproute2 and util-linux")
    if os.geteuid() != 0:
        raise NotAllowedError("only root may make network namespaces")
    with _namespace() as first, _namespace() as second:
        a, b = (
            Host(name=name, process=process, address=address)
            for name, process, address in zip("ab", (first, second), _ADDRESSES, strict=True)
        )
        a.run(
            "ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns", f"{b.process}"
        )
        for host in (a, b):
            host.run("ip", "link", "set", "lo", "up")
            # One segment a frame: else headers would be counted once for up to 64 KiB.
            host.run(
                "ip", "link", "set", INTERFACE, "addrgenmode", "none", "gso_max_segs", "1", "mtu", "1500"
            )
            host.run("ip", "address", "add", f"{host.address}/24", "dev", INTERFACE)
            burst_bytes = max(32 * 1024, BIT_RATES[rate] // 8 // 1000)
            shape = ("rate", rate, "burst", f"{burst_bytes}", "latency", f"{_QUEUE_MS}ms")
            host.run("tc", "qdisc", "add", "dev", INTERFACE, "root", "tbf", *shape)
            host.run("ip", "link", "set", INTERFACE, "up")
        yield TwoHosts(a, b)


@contextmanager
def _namespace() -> Iterator[int]:
    """Yield the process that keeps a network namespace of its own."""
    # It ends when its input does, also if this process is killed.
    keeper = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec cat"],  # noqa: S607 - wherever it is here
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    assert keeper.stderr is not None
    try:
        if keeper.stdout.readline() != b"\n":
            reason = " ".join(keeper.stderr.read().decode().split())
            raise NotAllowedError(f"this process may make no network namespace: {reason}")
        yield keeper.pid
    finally:
        keeper.stdin.close()
        keeper.wait()
        keeper.stdout.close()
        keeper.stderr.close()


def _counters(process: int) -> tuple[int, int]:
    """Return the bytes that have come in and gone out at the link's end of a process's host."""
    for line in Path(f"/proc/{process}/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == INTERFACE:
            fields = numbers.split()
            return int(fields[0]), int(fields[8])
    raise AssertionError(f"process {process} has no interface {INTERFACE}")
