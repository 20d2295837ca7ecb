"""What the user has chosen for an exchange of weights, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from torch import nn

from codistill.arguments import check_int, check_type
from codistill.caller import warn_caller
from codistill.exchange.checkpoint.lockstep import Lockstep
from codistill.exchange.checkpoint.membership import Membership, check_peers
from codistill.exchange.checkpoint.publisher import SnapshotOptions
from codistill.exchange.teacher_options import TeacherOptions
from codistill.snapshots.keys import check_peer_name
from codistill.snapshots.signing import SigningKey
from codistill.topologies import Topology, as_topology

Options = TypeVar("Options", SnapshotOptions, TeacherOptions, Membership)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything but the store; fields as the arguments of ``CheckpointExchange``."""

    peer: str
    """This peer's name."""
    peers: tuple[str, ...] | None
    """Everybody's names, sorted; None for whoever publishes."""
    interval_steps: int
    """Optimizer steps between two publishes."""
    topology: Topology
    """Who learns from whom."""
    lockstep: Lockstep | None
    """How to wait for the others; None to run free."""
    snapshots: SnapshotOptions
    """What is published and kept."""
    teachers: TeacherOptions
    """How teachers are made."""
    membership: Membership
    """How this peer joins."""
    signing_key: SigningKey | None
    """What every pointer is signed with."""

    def source(self, model: nn.Module) -> nn.Module:
        """Return the module whose weights are published.

        Args:
            model: The student.
        """
        return self.snapshots.publish_from or model

    @classmethod
    def of(
        cls,
        *,
        peer: str,
        peers: Sequence[str] | None,
        interval_steps: int,
        topology: str | Topology,
        lockstep: bool | Lockstep,
        snapshots: SnapshotOptions | None,
        teachers: TeacherOptions | None,
        membership: Membership | None,
    ) -> Self:
        """Check what the user wrote, together.

        Raises:
            TypeError, ValueError: If something is not as ``CheckpointExchange`` describes it, or contradicts
                something else.
        """
        hint = "To train without peers, leave out the Codistiller."
        check_int("interval_steps", interval_steps, minimum=1, hint=hint)
        check_peer_name(peer)
        snapshots = _option("snapshots", snapshots, SnapshotOptions)
        teachers = _option("teachers", teachers, TeacherOptions)
        membership = _option("membership", membership, Membership)
        topology = as_topology(topology)
        names = check_peers(
            peer,
            peers,
            topology=topology,
            max_teachers=teachers.max_teachers,
            start_with_peers=membership.start_with_peers,
        )
        pace = (Lockstep() if lockstep else None) if isinstance(lockstep, bool) else lockstep
        if pace is not None:
            check_type("lockstep", pace, Lockstep)
            _check_lockstep(names, snapshots, membership)
        key_file = snapshots.signing_key_file
        return cls(
            peer=peer,
            peers=names,
            interval_steps=interval_steps,
            topology=topology,
            lockstep=pace,
            snapshots=snapshots,
            teachers=teachers,
            membership=membership,
            signing_key=None if key_file is None else SigningKey.from_file(key_file),
        )


def _option(argument: str, value: Options | None, kind: type[Options]) -> Options:
    if value is None:
        return kind()
    check_type(argument, value, kind)
    return value


def _check_lockstep(
    peers: tuple[str, ...] | None, snapshots: SnapshotOptions, membership: Membership
) -> None:
    if peers is None:
        raise ValueError("peers must be given in lockstep, got None. Name everybody who takes part.")
    if snapshots.keep is not None:
        raise ValueError(
            f"keep must be None in lockstep, got {snapshots.keep}. A peer that resumes needs all snapshots."
        )
    for argument, default in (("start_with_peers", 0), ("max_age_steps", None), ("when_stale", "fade")):
        if getattr(membership, argument) != default:
            warn_caller(
                f"{argument} has no effect in lockstep, where every peer waits for all others.",
            )
