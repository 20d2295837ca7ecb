"""The server as a whole."""

import functools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, final

from codistill.arguments import check_seconds, check_type
from codistill.exchange.served.answer import ServedVersion
from codistill.exchange.teacher_options import TeacherOptions
from codistill.extras import check_installed, require
from codistill.server.answering import Answering
from codistill.server.desk import Desk
from codistill.server.follower import Follower
from codistill.server.limits import Limits
from codistill.server.listening import Listening
from codistill.snapshots.keys import check_peer_name
from codistill.snapshots.signing import SigningKey
from codistill.stores.base import Store
from codistill.stores.opening import open_store

_GRACE_S: Final = 5


@final
class PredictionServer:
    """Follows the snapshots in a store, and answers batches with what their peers would predict.

    For students that have no memory for teachers; ``ServedExchange`` asks it. All weights are read on one
    thread, verified and decoded; another runs the models, several students' batches in one forward where
    that is the same; HTTP is a third's. docs/prediction-server.md has the protocol and how to run it.

    **Ranks**: none: a process of its own, that trains nothing.
    **Blocks**: ``close``, up to its timeout.
    **On failure**: what cannot be read of the store is logged, and the teachers stay as they were. A question
    that cannot be answered is refused with a reason. An accelerator that has failed makes ``is_broken`` true.

    Example::

        with PredictionServer("/mnt/run-7", teachers=TeacherOptions(build=lambda info: MyModel())) as server:
            print(server.url)
            ...
    """

    def __init__(
        self,
        store: str | Path | Store,
        *,
        teachers: TeacherOptions,
        listening: Listening | None = None,
        limits: Limits | None = None,
        answering: Answering | None = None,
        peers: Sequence[str] | None = None,
        signing_key_file: str | Path | None = None,
        poll_s: float = 5.0,
    ) -> None:
        """Listen; ``start`` begins to answer.

        Args:
            store: What the peers publish in; a path, a URL or a ``Store``; only read.
            teachers: How they are made: ``build``, ``dtype``, ``device`` and ``max_teachers``.
            listening: Where; None for a free port that only this machine reaches.
            limits: What is refused.
            answering: How models are called.
            peers: Whom to serve; None for whoever publishes, up to ``max_teachers``.
            signing_key_file: The key that the peers sign with; None takes any snapshot.
            poll_s: Seconds between two looks at the store, > 0.

        Raises:
            TypeError, ValueError: If an argument is not as described, or others could reach an unprotected
                server.
            ExtraMissingError: If the extra "serve" is not installed.
            StoreError, SnapshotFormatError: If the store cannot be read, or holds no run.
            OSError: If it cannot listen there.
        """
        for module in ("starlette", "uvicorn"):
            check_installed(module, "serve")
        check_type("teachers", teachers, TeacherOptions)
        if teachers.build is None:
            raise ValueError(
                "teachers must have build, got None: a server has no student to copy. "
                "Pass TeacherOptions(build=lambda info: MyModel(...))."
            )
        if teachers.every != 1:
            raise ValueError(
                f"every must be 1 for a server, got {teachers.every}. Students decide when to ask."
            )
        check_seconds("poll_s", poll_s, hint="5.0 is the default.")
        listening = Listening() if listening is None else listening
        limits = Limits() if limits is None else limits
        answering = Answering() if answering is None else answering
        check_type("listening", listening, Listening)
        check_type("limits", limits, Limits)
        check_type("answering", answering, Answering)
        names = (
            None if peers is None else [check_peer_name(name, f"peers[{i}]") for i, name in enumerate(peers)]
        )
        if names is not None and len(set(names)) > teachers.max_teachers:
            raise ValueError(
                f"max_teachers must be >= {len(set(names))} for these peers, got {teachers.max_teachers}."
            )
        token = listening.token()
        listening.check_certificate()
        key = None if signing_key_file is None else SigningKey.from_file(signing_key_file)
        self._desk = Desk(limits=limits, answering=answering)
        self._store = open_store(store, is_read_only=True)
        self._owns_store = self._store is not store
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="codistill-messages")
        try:
            self._follower = Follower(
                self._store, teachers, self._desk.bring, peers=names, signing_key=key, poll_s=poll_s
            )
            self._listener = listening.open()
        except BaseException:
            self._release()
            raise
        self._url = listening.url_of(self._listener)
        # These need the extra.
        from codistill.server.app import App
        from codistill.server.connection import BoundedConnection

        app = App(self._desk, self._follower, limits=limits, token=token, executor=self._executor)
        uvicorn: Any = require("uvicorn", "serve")
        self._http = uvicorn.Server(
            uvicorn.Config(
                app.asgi,
                http=functools.partial(BoundedConnection, limits=limits),
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ssl_certfile=listening.certificate,
                ssl_keyfile=listening.key,
                timeout_keep_alive=max(1, int(limits.request_timeout_s)),
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        self._thread = threading.Thread(target=self._run_http, name="codistill-http", daemon=True)
        self._is_closed = False

    @property
    def url(self) -> str:
        """Where students on this machine find it."""
        return self._url

    @property
    def versions(self) -> tuple[ServedVersion, ...]:
        """What is served now, in sorted order of peers."""
        return self._desk.versions

    @property
    def forwards(self) -> int:
        """How many times a model has been run: fewer than there were questions, if some were merged."""
        return self._desk.forwards

    @property
    def waiting(self) -> int:
        """How many questions wait for the models now, without those under way."""
        return self._desk.waiting

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._http.server_state.connections)

    @property
    def is_broken(self) -> bool:
        """Whether it answers nothing any more though nobody has closed it."""
        has_ended = self._thread.ident is not None and not self._thread.is_alive()
        return self._desk.is_broken or (has_ended and not self._is_closed)

    def start(self) -> None:
        """Begin to follow and to answer, on threads of its own."""
        self._desk.start()
        self._follower.start()
        self._thread.start()

    def look(self) -> None:
        """Look at the store now, on this thread."""
        self._follower.look()

    def close(self, timeout_s: float = 30.0) -> None:
        """Answer what waits, for five seconds at most, and end. A second call does nothing.

        Args:
            timeout_s: How long the threads may take, in seconds; those that take longer end with the process.
        """
        if self._is_closed:
            return
        self._is_closed = True
        deadline_s = time.monotonic() + timeout_s

        def remaining_s() -> float:
            return max(0.0, deadline_s - time.monotonic())

        self._http.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(remaining_s())
        self._desk.close(remaining_s())
        self._follower.close(remaining_s())
        self._listener.close()
        self._release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _run_http(self) -> None:
        self._http.run(sockets=[self._listener])

    def _release(self) -> None:
        self._executor.shutdown(cancel_futures=True)
        if self._owns_store:
            self._store.close()
