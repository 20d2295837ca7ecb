"""The lives of a peer: which run it belongs to, and whose its name is."""

import logging
from typing import Final

from codistill.errors import KeyMissingError, PeerTakenError, RunExistsError, SnapshotError
from codistill.exchange.checkpoint.waiting import Clock
from codistill.snapshots.keys import RUN_KEY, life_key, status_key
from codistill.snapshots.manifest import Manifest
from codistill.snapshots.run import LIFE_DOCUMENT, MAX_RUN_BYTES, Run, new_run
from codistill.snapshots.status import MAX_STATUS_BYTES, Status
from codistill.stores.base import Store

HEARTBEAT_S: Final = 5.0
_BEATS_TO_WATCH: Final = 3
# That takes a while and is nothing wrong, so no warning of Python's.
_logger = logging.getLogger("codistill")


def open_run(store: Store) -> str:
    """Return the id of the run in ``store``, creating it if this is the first peer.

    Raises:
        StoreError: If the store cannot be written.
        SnapshotFormatError: If what is there was written by a newer version.
    """
    run = new_run()
    if store.create(RUN_KEY, run.to_json()):
        return run.run_id
    return Run.from_json(store.read(RUN_KEY, max_bytes=MAX_RUN_BYTES), key=RUN_KEY).run_id


def claim_life(store: Store, peer: str, *, after: int | None) -> int:
    """Return the number of this peer's new life, higher than any before it.

    Args:
        store: The run's store.
        peer: The peer's name.
        after: The last incarnation known; None if none is.
    """
    incarnation = 0 if after is None else after + 1
    while not store.create(life_key(peer, incarnation), LIFE_DOCUMENT):
        incarnation += 1
    return incarnation


def check_new(newest: Manifest, store: Store) -> None:
    """Refuse a job that starts at step 0 on top of its own old snapshots.

    A snapshot of step 0 is none to protect: a job that was started before and found nobody left it.

    Args:
        newest: What the peer published last.
        store: Where, for the message.

    Raises:
        RunExistsError: If there is training in it.
    """
    if newest.step > 0:
        raise RunExistsError(
            f"Peer {newest.peer!r} has published step {newest.step} at {store.describe()} before, and this "
            "job starts at step 0. Choose an empty store for a new run, resume from this peer's checkpoint, "
            "pass Membership(rejoin=True), or, if another job has this name, choose another.",
            peer=newest.peer,
            step=newest.step,
            key=newest.key,
        )


def check_name_is_free(store: Store, peer: str, *, clock: Clock) -> None:
    """Refuse a name under which another job lives: whose heartbeat moves while it is watched.

    **Blocks**: for three heartbeats, 15 s, if the peer's last life was not closed; else not at all.

    Args:
        store: The run's store.
        peer: The name.
        clock: To wait by.

    Raises:
        PeerTakenError: If it moves.
        StoreError: If the store cannot be read.
    """
    first = read_status(store, peer)
    if first is None or first.state != "running":
        return
    _logger.warning(
        "The last life of peer %r was not closed: its heartbeat is watched for up to %g s, as two jobs must "
        "not have one name.",
        peer,
        _BEATS_TO_WATCH * HEARTBEAT_S,
    )
    for _ in range(_BEATS_TO_WATCH):
        clock.sleep(HEARTBEAT_S)
        now = read_status(store, peer)
        if now is None or now.state != "running":
            return
        if (now.incarnation, now.heartbeat) != (first.incarnation, first.heartbeat):
            raise PeerTakenError(
                f"peer must be a name that no other live job has, got {peer!r}, which a job has at "
                f"{store.describe()}: its heartbeat moves. Give this job a name of its own, or stop the "
                "other.",
                peer=peer,
                step=now.step,
                key=status_key(peer),
            )


def has_been_followed(store: Store, peer: str, incarnation: int) -> bool:
    """Return whether a later life of the peer has been claimed.

    Raises:
        StoreError: If the store cannot be read.
    """
    try:
        store.read(life_key(peer, incarnation + 1), max_bytes=1)
    except KeyMissingError:
        return False
    return True


def read_status(store: Store, peer: str) -> Status | None:
    """Return what a peer tells of itself; None if it is nothing that can be read.

    Raises:
        StoreError: If the store cannot be read.
    """
    key = status_key(peer)
    try:
        return Status.from_json(store.read(key, max_bytes=MAX_STATUS_BYTES), key=key)
    except (KeyMissingError, SnapshotError):
        return None
