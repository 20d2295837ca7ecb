"""A snapshot that has been read and waits to be served."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from codistill.exchange.teachers import Teacher
from codistill.snapshots.info import SnapshotInfo


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standby:
    """What becomes of a peer's teacher between two batches."""

    info: SnapshotInfo
    """The snapshot."""
    teacher: Teacher
    """Its teacher: the one that is served, or a new one that holds the snapshot already."""
    tensors: Mapping[str, Tensor] | None
    """What to copy into the teacher; None for a new one."""
