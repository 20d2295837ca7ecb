"""What a peer tells of itself between snapshots."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar, cast

from codistill.snapshots.document import (
    RUN_ID,
    Fields,
    as_array,
    as_integer,
    as_string,
    finite_or_none,
    refusals,
    write_document,
)
from codistill.snapshots.keys import check_peer_name, is_peer_name, status_key

MAX_STATUS_BYTES: Final = 64 * 1024
MAX_READING: Final = 256
# Of what is news only, so that the whole stays within its limit.
MAX_TOLD: Final = 64
MAX_ADVICE: Final = 8
MAX_SENTENCE: Final = 500
State = Literal["running", "finished", "left"]
_STATE = re.compile("running|finished|left")
# No control characters: it is shown on terminals.
_SENTENCE = re.compile(r"[^\x00-\x1f\x7f-\x9f]{0,500}")
Value = TypeVar("Value")


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
    # What follows is absent in statuses that were written before there was any; of each 64 are written.
    weight: float | None = None
    """What the distillation loss was multiplied by at the latest step; None if unknown."""
    agreement: Mapping[str, float] = field(default_factory=dict)
    """By teacher, at which share of the positions it and the student choose the same class."""
    ages: Mapping[str, int] = field(default_factory=dict)
    """By teacher, the student's own steps since it first saw the snapshot it learns from."""
    quarantined: tuple[str, ...] = ()
    """Teachers that are not learnt from because they were found to be bad."""
    stall_s: float | None = None
    """Seconds of this life spent in the exchange, teachers' forwards apart; None if unknown."""
    running_s: float | None = None
    """Seconds since this life began; None if unknown."""
    advice: tuple[str, ...] = ()
    """Sentences on settings that do not help, of at most 500 characters; the last 8 are written."""
    waits_for: str | None = None
    """What must come from others before it trains on, of at most 500 characters; None while it does not
    wait, or not for long."""

    def __post_init__(self) -> None:
        if len(self.reading) > MAX_READING:
            raise ValueError(f"reading must have at most {MAX_READING} entries, got {len(self.reading)}.")

    def to_json(self) -> bytes:
        """Return the document's bytes."""
        # Predictions that a user made may be called otherwise; a reader would refuse the whole for that.
        agreement = [(peer, share) for peer, share in self.agreement.items() if is_peer_name(peer)]
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
                "weight": finite_or_none(self.weight),
                "agreement": dict(agreement[:MAX_TOLD]),
                "ages": dict(list(self.ages.items())[:MAX_TOLD]),
                "quarantined": list(self.quarantined[:MAX_TOLD]),
                "stall_s": finite_or_none(self.stall_s),
                "running_s": finite_or_none(self.running_s),
                "advice": [sentence[:MAX_SENTENCE] for sentence in self.advice[-MAX_ADVICE:]],
                "waits_for": None if self.waits_for is None else self.waits_for[:MAX_SENTENCE],
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
                weight=_number(fields, "weight"),
                agreement=_by_teacher(fields, "agreement", _as_share),
                ages=_by_teacher(fields, "ages", as_integer),
                quarantined=tuple(
                    check_peer_name(as_string(name, "quarantined"))
                    for name in (
                        fields.array("quarantined", limit=MAX_TOLD) if fields.has("quarantined") else ()
                    )
                ),
                stall_s=_number(fields, "stall_s"),
                running_s=_number(fields, "running_s"),
                advice=tuple(
                    as_string(sentence, "advice", _SENTENCE)
                    for sentence in (fields.array("advice", limit=MAX_ADVICE) if fields.has("advice") else ())
                ),
                waits_for=_sentence(fields, "waits_for"),
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


def _number(fields: Fields, field: str) -> float | None:
    return fields.number_or_none(field) if fields.has(field) else None


def _sentence(fields: Fields, field: str) -> str | None:
    is_told = fields.has(field) and not fields.is_null(field)
    return fields.text(field, _SENTENCE) if is_told else None


def _by_teacher(fields: Fields, field: str, parse: Callable[[object, str], Value]) -> dict[str, Value]:
    found = fields.items(field, limit=MAX_TOLD) if fields.has(field) else []
    return {
        check_peer_name(teacher, f"{field}[{teacher!a}]"): parse(value, f"{field}[{teacher!a}]")
        for teacher, value in found
    }


def _as_share(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number between 0 and 1, got {value!a}.")
    return float(value)
