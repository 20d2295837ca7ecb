"""A login at an SSH server, and the channels that threads borrow from it."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, final

from codistill.errors import StoreError
from codistill.extras import require

CONNECT_TIMEOUT_S: Final = 10
"""How long to wait for each step of a login: the connection, the banner, the authentication, a channel."""
READ_TIMEOUT_S: Final = 30
"""How long a server may be silent before it counts as lost."""
MAX_CHANNELS: Final = 4
"""How many verbs run at once; OpenSSH allows 10 channels a login."""

_KEEPALIVE_S = 10
_SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"
# Else paramiko prints to stderr, where nobody has set up logging, the traceback of what we raise anyway.
_no_output = logging.NullHandler()


@final
class SshConnection:
    """One login, made when it is first needed and again when it was lost.

    Settings of ``~/.ssh/config`` for the host apply: ``HostName``, ``Port``, ``User``, ``IdentityFile``.
    The server's key has to be in ``~/.ssh/known_hosts`` or ``/etc/ssh/ssh_known_hosts``.

    **Ranks**: threads of one process; a forked child needs an object of its own.
    **Blocks**: for a login at most a few times `CONNECT_TIMEOUT_S`; a thread that finds `MAX_CHANNELS`
    borrowed waits for one of them.
    **On failure**: the channel is closed, and the next one is opened afresh.
    """

    def __init__(self, *, host: str, port: int | None, user: str | None, password: str | None) -> None:
        """Remember whom to call; nothing is connected.

        Args:
            host: Name or address of the server, or its alias in ``~/.ssh/config``.
            port: Its port; None for what the configuration says, or 22.
            user: Whom to log in as; None for what the configuration says, or this process's user.
            password: Of the user; None for the agent and the keys in ``~/.ssh``.
        """
        self._paramiko = require("paramiko", "sftp")
        self._host = host
        self._port = port
        self._user = user
        self._password = password
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(MAX_CHANNELS)
        self._client: Any = None
        self._idle: list[Any] = []

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """Lend a ``paramiko.SFTPClient`` to this thread.

        Raises:
            StoreError: If the server's key is not known or has changed, or only a proxy reaches it.
            Exception: Of the socket and of paramiko, whatever they raise.
        """
        with self._room:
            sftp = self._take()
            try:
                yield sftp
            except FileNotFoundError:
                self._give_back(sftp)
                raise
            except BaseException:
                # Half an answer may be left in it.
                with suppress(Exception):
                    sftp.close()
                raise
            self._give_back(sftp)

    def close(self) -> None:
        """End the login; the next channel makes another."""
        with self._lock:
            client, self._client, self._idle = self._client, None, []
        if client is not None:
            _close(client)

    def _take(self) -> Any:
        with self._lock:
            if self._client is None or not self._client.get_transport().is_active():
                if self._client is not None:
                    _close(self._client)
                self._client, self._idle = self._connect(), []
            if self._idle:
                return self._idle.pop()
            channel = self._client.get_transport().open_session(timeout=CONNECT_TIMEOUT_S)
            channel.settimeout(READ_TIMEOUT_S)
            channel.invoke_subsystem("sftp")
            return self._paramiko.SFTPClient(channel)

    def _give_back(self, sftp: Any) -> None:
        with self._lock:
            channel = sftp.get_channel()
            is_ours = self._client is not None and channel.get_transport() is self._client.get_transport()
            if is_ours and not channel.closed:
                self._idle.append(sftp)

    def _connect(self) -> Any:
        settings = self._settings()
        host = settings["hostname"]
        port = self._port or int(settings.get("port", 22))
        logging.getLogger("paramiko").addHandler(_no_output)
        client = self._paramiko.SSHClient()
        client.load_system_host_keys()
        with suppress(FileNotFoundError):
            client.load_system_host_keys(_SYSTEM_KNOWN_HOSTS)
        client.set_missing_host_key_policy(self._paramiko.RejectPolicy())
        sock = socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S)
        try:
            # Else a server that vanished behind a dead link is noticed after a quarter of an hour only.
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, READ_TIMEOUT_S * 1000)
            client.connect(
                host,
                port=port,
                username=self._user or settings.get("user"),
                password=self._password,
                key_filename=settings.get("identityfile"),
                # Keys tried before the password could use up the server's patience.
                allow_agent=self._password is None,
                look_for_keys=self._password is None,
                sock=sock,
                timeout=3 * CONNECT_TIMEOUT_S,  # for the banner and what follows it, until the server's key
                banner_timeout=CONNECT_TIMEOUT_S,
                auth_timeout=CONNECT_TIMEOUT_S,
                channel_timeout=CONNECT_TIMEOUT_S,
            )
        except BaseException as e:
            _close(client)
            sock.close()
            if isinstance(e, self._paramiko.BadHostKeyException):
                raise StoreError(
                    f"'{host}' must show the key that is in known_hosts, and shows another: it was set up "
                    "anew, or somebody stands between. Ask its administrator; if it was set up anew, remove "
                    f"the old key with: ssh-keygen -R '{_known_as(host, port)}'"
                ) from e
            if isinstance(e, self._paramiko.SSHException) and "not found in known_hosts" in str(e):
                raise StoreError(
                    f"'{host}' must be in known_hosts, and is not. Add it with: ssh-keyscan -p {port} {host} "
                    ">> ~/.ssh/known_hosts; and compare its fingerprint with the one its administrator tells."
                ) from e
            raise
        client.get_transport().set_keepalive(_KEEPALIVE_S)
        return client

    def _settings(self) -> dict[str, Any]:
        path = Path("~/.ssh/config").expanduser()
        if not path.is_file():
            return {"hostname": self._host}
        settings: dict[str, Any] = self._paramiko.SSHConfig.from_path(str(path)).lookup(self._host)
        if {"proxyjump", "proxycommand"} & settings.keys():
            raise StoreError(
                f"'{self._host}' must be reached without a proxy, and {path} names one. Forward a port with "
                "ssh -L and use localhost and that port, or mount the folder with sshfs."
            )
        return settings


def _close(client: Any) -> None:
    transport = client.get_transport()
    client.close()
    if transport is not None:
        transport.join(CONNECT_TIMEOUT_S)


def _known_as(host: str, port: int) -> str:
    return host if port == 22 else f"[{host}]:{port}"
