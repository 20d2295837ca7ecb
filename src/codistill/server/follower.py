"""Following the snapshots that peers publish."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn

from codistill.errors import CodistillError, SnapshotError, SnapshotIntegrityError, StoreError
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.membership import MAX_PEERS
from codistill.exchange.checkpoint.roster import Order
from codistill.exchange.teacher_options import TeacherOptions
from codistill.exchange.teachers import Teacher, make_teacher
from codistill.parallel.weights import named_tensors
from codistill.server.standby import Standby
from codistill.snapshots.codec import first_nan
from codistill.snapshots.info import SnapshotInfo
from codistill.snapshots.keys import RUN_KEY, is_peer_name
from codistill.snapshots.manifest import Manifest, ManifestReference
from codistill.snapshots.run import MAX_RUN_BYTES, Run
from codistill.snapshots.signing import SigningKey
from codistill.stores.base import Store

_logger = logging.getLogger("codistill.server")

_NEVER: Final = (-1, -1)
# Double precision in the store, eight bits in the model: names and shapes are compared before.
_SIZE_ALLOWANCE: Final = 8
_SMALLEST_MAX_BYTES: Final = 2**20


@final
class Follower:
    """Looks at the store again and again, and brings what is new of each peer, verified and decoded.

    It never goes back to an older snapshot than it has brought, and reads what it has refused no second time.
    A peer that publishes nothing more is served as it was: how old that is its students know.

    **Ranks**: none; a thread of its own. Any thread may look.
    **Blocks**: ``look`` while the store is read.
    **On failure**: what cannot be read or used is logged once and shown in ``problems``; the teacher stays as
    it was, and the next look tries again.
    """

    def __init__(
        self,
        store: Store,
        teachers: TeacherOptions,
        bring: Callable[[Standby], None],
        *,
        peers: Sequence[str] | None = None,
        signing_key: SigningKey | None = None,
        poll_s: float = 5.0,
    ) -> None:
        """Read which run it is.

        Args:
            store: The run's store; read only.
            teachers: How teachers are made; with ``build``.
            bring: Is given what is new, on the follower's thread.
            peers: Whom to follow; None for the first in sorted order who publish under the run.
            signing_key: What pointers must be signed with; None takes any.
            poll_s: Seconds between two looks.

        Raises:
            StoreError: If the store cannot be read, or holds no run.
            SnapshotFormatError: If what is there is not a run.
        """
        content = store.read(RUN_KEY, max_bytes=MAX_RUN_BYTES + 1)
        self._run_id = Run.from_json(content, key=RUN_KEY).run_id
        self._store = store
        self._options = teachers
        self._bring = bring
        self._peers = None if peers is None else sorted(set(peers))
        self._signing_key = signing_key
        self._poll_s = poll_s
        self._followed: dict[str, _Followed] = {}
        self._problems: dict[str, str] = {}
        self._reading: Fetcher | None = None
        self._is_looking = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="codistill-follower", daemon=True)

    @property
    def problems(self) -> Mapping[str, str]:
        """Why a peer's newest snapshot is not served, by peer; of the store itself under ""."""
        return dict(self._problems)

    def start(self) -> None:
        """Look now, and from then on every so many seconds."""
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Give up what is being read; return whether the thread has ended."""
        self._end.set()
        if self._reading is not None:
            self._reading.give_up()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def look(self) -> None:
        """Bring what is new of every peer."""
        with self._is_looking:
            self._look()

    def _look(self) -> None:
        try:
            names = self._names()
        except StoreError as error:
            self._note("", f"The store cannot be read: {error}")
            return
        self._problems.pop("", None)
        for peer in names:
            try:
                self._look_at(peer)
            except Exception as error:  # noqa: BLE001 - build is the user's; the other peers are to be served
                if self._end.is_set():
                    return
                self._note(peer, f"The newest snapshot of peer {peer!r} is not served: {error!s}", error)

    def _run(self) -> None:
        self.look()
        while not self._end.wait(self._poll_s):
            self.look()

    def _names(self) -> list[str]:
        if self._peers is not None:
            return self._peers
        names = [name for name in self._store.list_names("", limit=MAX_PEERS + 1) if is_peer_name(name)]
        # Who is served stays, whoever else comes.
        wanted = sorted(names, key=lambda name: (name not in self._followed, name))
        most = self._options.max_teachers
        for name in wanted[most:]:
            self._note(
                name, f"Peer {name!r} is not served: there is room for {most}. Serve with --max-peers."
            )
        return wanted[:most]

    def _look_at(self, peer: str) -> None:
        followed = self._followed.setdefault(peer, _Followed())
        fetcher = self._fetcher(max_bytes=None)
        pointer = fetcher.pointer(peer)
        if pointer is None or pointer.order <= followed.held:
            self._problems.pop(peer, None)
            return
        if pointer.order <= followed.passed_over:
            return
        try:
            fetcher.follow(pointer, lambda manifest, reference: self._read(followed, manifest, reference))
        except StoreError:
            raise
        except Exception as error:
            # Half an answer looks like a damaged file; what is damaged is so the second time too.
            if not isinstance(error, SnapshotIntegrityError) or followed.suspect == pointer.order:
                followed.passed_over = pointer.order
            followed.suspect = pointer.order
            raise
        self._problems.pop(peer, None)

    def _read(self, followed: "_Followed", manifest: Manifest, reference: ManifestReference) -> None:
        info = SnapshotInfo.from_manifest(manifest)
        teacher = followed.teacher
        is_new = teacher is None or not teacher.fits(info)
        if teacher is None or is_new:
            others = [one.teacher for one in self._followed.values() if one.teacher is not None]
            teacher = make_teacher(_NoStudent(), info, self._options, others=others)
        teacher.check_fits(info, key=reference.key)
        own_bytes = sum(tensor.nbytes for tensor in named_tensors(teacher.module).values())
        fetcher = self._fetcher(max_bytes=max(_SIZE_ALLOWANCE * own_bytes, _SMALLEST_MAX_BYTES))
        arrival = fetcher.fetch(manifest, reference, first_seen_step=0)
        name = first_nan(arrival.tensors)
        if name is not None:
            raise SnapshotError(
                f"{name!r} of snapshot {manifest.incarnation}-{manifest.sequence} holds NaN.",
                peer=info.peer,
                step=info.step,
                key=reference.key,
            )
        if is_new:
            teacher.load(arrival.tensors, info, first_seen_step=0)
        self._bring(Standby(info=info, teacher=teacher, tensors=None if is_new else arrival.tensors))
        followed.teacher, followed.held = teacher, manifest.order
        _logger.info("Peer %r at step %d is served.", info.peer, info.step)

    def _fetcher(self, *, max_bytes: int | None) -> Fetcher:
        self._reading = Fetcher(
            self._store, run_id=self._run_id, max_bytes=max_bytes, signing_key=self._signing_key
        )
        if self._end.is_set():
            self._reading.give_up()
        return self._reading

    def _note(self, subject: str, problem: str, error: Exception | None = None) -> None:
        """Log a problem, once as long as it lasts."""
        if self._problems.get(subject) != problem:
            self._problems[subject] = problem
            is_ours = error is None or isinstance(error, CodistillError)
            _logger.warning("%s", problem, exc_info=None if is_ours else error)


@dataclass(slots=True)
class _Followed:
    """What is known of a peer that is followed."""

    teacher: Teacher | None = None
    """What its snapshots go into."""
    held: Order = _NEVER
    """The newest that was brought."""
    passed_over: Order = _NEVER
    """The newest that was refused for good."""
    suspect: Order = _NEVER
    """One that was damaged when it was read."""


class _NoStudent(nn.Module):
    """Stands where teachers are made for a student: on the CPU, and sharing nothing."""

    place: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.zeros(1))
