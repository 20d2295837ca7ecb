"""What a peer tells of itself between snapshots."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

from codistill.snapshots.document import (
    RUN_ID,
    Fields,
    as_array,
    as_integer,
    finite_or_none,
    refusals,
    write_document,
)
from codistill.snapshots.keys import check_peer_name, status_key

MAX_STATUS_BYTES: Final = 64 * 1024
MAX_READING: Final = 256
State = Literal["running", "finished", "left"]
_STATE = re.compile("running|finished|left")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How far a peer is. It may be old: only a heartbeat that moves says that the peer lives."""

    run_id: str
    """Id of the run, as in ``run.json``."""
    peer: str
    """Who wrote it."""
    incarnation: int
    """Which life of the peer, from 0."""
    heartbeat: int
    """Counts up while the peer lives; other peers compare it by their own clocks."""
    step: int
    """Optimizer steps taken."""
    samples: int
    """Samples consumed, over all ranks of the peer."""
    task_loss: float | None
    """Latest task loss; None if unknown. Written as null if it is not finite."""
    distillation_loss: float | None
    """Latest distillation loss, unweighted; None before burn-in ends or without teachers."""
    state: State
    """``running``, ``finished`` (its last snapshot is final) or ``left`` (it was closed before)."""
    reading: Mapping[str, tuple[int, int]]
    """Its teachers, to incarnation and sequence of the snapshots it learns from; at most 256."""

    def __post_init__(self) -> None:
        if len(self.reading) > MAX_READING:
            raise ValueError(f"reading must have at most {MAX_READING} entries, got {len(self.reading)}.")

    def to_json(self) -> bytes:
        """Return the document's bytes."""
        return write_document(
            {
                "run_id": self.run_id,
                "peer": self.peer,
                "incarnation": self.incarnation,
                "heartbeat": self.heartbeat,
                "step": self.step,
                "samples": self.samples,
                "task_loss": finite_or_none(self.task_loss),
                "distillation_loss": finite_or_none(self.distillation_loss),
                "state": self.state,
                "reading": {peer: list(order) for peer, order in self.reading.items()},
            }
        )

    @classmethod
    def from_json(cls, data: bytes, *, key: str) -> "Status":
        """Parse a status that somebody else wrote.

        Args:
            data: What was read.
            key: Where it was read; the peer in it must agree with the key.

        Raises:
            SnapshotFormatError: If a field is not as the format says, or the format is newer.
        """
        with refusals("status", key):
            fields = Fields.of_document(data, max_bytes=MAX_STATUS_BYTES)
            status = cls(
                run_id=fields.text("run_id", RUN_ID),
                peer=check_peer_name(fields.text("peer")),
                incarnation=fields.integer("incarnation"),
                heartbeat=fields.integer("heartbeat"),
                step=fields.integer("step"),
                samples=fields.integer("samples"),
                task_loss=fields.number_or_none("task_loss"),
                distillation_loss=fields.number_or_none("distillation_loss"),
                state=cast("State", fields.text("state", _STATE)),
                reading=dict(
                    _parse_reading(teacher, order)
                    for teacher, order in fields.items("reading", limit=MAX_READING)
                ),
            )
            if status_key(status.peer) != key:
                raise ValueError(f"peer must be the one it is stored for, got {status.peer!r}.")
            return status


def _parse_reading(teacher: str, order: object) -> tuple[str, tuple[int, int]]:
    name = f"reading[{teacher!a}]"
    check_peer_name(teacher, name)
    pair = as_array(order, name, limit=2)
    if len(pair) != 2:
        raise ValueError(f"{name} must be incarnation and sequence, got {len(pair)} elements.")
    return teacher, (as_integer(pair[0], f"{name}[0]"), as_integer(pair[1], f"{name}[1]"))
