"""What a rank must hold."""

from dataclasses import dataclass, replace
from typing import final

from codistill.planner.job import DTYPES, ITEM_BYTES, OPTIMIZER_STATES, Job
from codistill.planner.snapshot_size import snapshot_bytes
from codistill.snapshots.precision import STORED

_SPARSE_BYTES_A_CLASS = 8 + 4
_SPARSE_BYTES = 4


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of the rank that holds the most: rank 0. What forward and backward keep is not in it."""

    weights_bytes: float
    """The student's weights and buffers."""
    gradients_bytes: float
    """Its gradients."""
    optimizer_bytes: float
    """What the optimizer keeps."""
    teachers_bytes: float = 0.0
    """Teachers' copies of the weights."""
    predictions_bytes: float = 0.0
    """Others' predictions of one batch, with one's own as they are sent."""
    staging_bytes: float = 0.0
    """In host memory: where weights wait to be published; DiLoCo's weights before, and its momentum."""
    standby_bytes: float = 0.0
    """In host memory: snapshots that have been read and not been taken yet, of all teachers at once."""

    @property
    def device_bytes(self) -> float:
        """All that lies where the student does."""
        return (
            self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.teachers_bytes
            + self.predictions_bytes
        )

    @property
    def host_bytes(self) -> float:
        """All that lies in host memory."""
        return self.staging_bytes + self.standby_bytes


def plain_memory(job: Job) -> Memory:
    """Return what training takes without any exchange.

    Example:
        >>> from codistill.planner.job import Model
        >>> job = Job(model=Model(parameters=1000), peers=2, batch_per_peer=1, outputs=10)
        >>> plain_memory(job).device_bytes
        16000.0
    """
    weights = job.model.weight_bytes / _ranks_that_divide(job)
    return Memory(
        weights_bytes=weights + job.model.buffer_bytes,
        gradients_bytes=weights,
        optimizer_bytes=OPTIMIZER_STATES[job.optimizer] * weights,
    )


def checkpoint_memory(job: Job, codec: str) -> Memory:
    """Return what an exchange of snapshots takes.

    A teacher costs a copy of the weights and the logits of a batch. The staging is the file itself, with
    "int8" also the values that wait to be rounded; a standby is the file and, unless its tensors are those
    of the file, their values.
    """
    plain = plain_memory(job)
    ranks = _ranks_that_divide(job)
    is_as_it_is = DTYPES[job.model.weight_dtype] not in STORED[codec]
    file = snapshot_bytes(job.model, codec) / ranks
    values = job.model.weight_bytes / ranks
    return replace(
        plain,
        teachers_bytes=job.teachers * plain.weights_bytes,
        predictions_bytes=job.teachers * dense_bytes(job),
        staging_bytes=file + (values if codec == "int8" else 0),
        standby_bytes=job.teachers * (file + (0 if is_as_it_is else values)),
    )


def prediction_memory(job: Job, codec: str) -> Memory:
    """Return what an exchange of predictions takes: those of the others, and one's own as it sends them."""
    held = dense_bytes(job)
    if codec == "bfloat16":
        held = held * 2 / ITEM_BYTES[job.logits_dtype]
    elif codec == "top_k":
        assert job.top_k is not None
        a_position = job.top_k.k * _SPARSE_BYTES_A_CLASS + _SPARSE_BYTES
        held = job.predictions / job.ranks_per_peer * a_position
    return replace(plain_memory(job), predictions_bytes=job.peers * held)


def diloco_memory(job: Job) -> Memory:
    """Return what DiLoCo takes: the weights of the last average, and the outer optimizer's momentum."""
    return replace(plain_memory(job), staging_bytes=2 * job.model.weight_bytes / _ranks_that_divide(job))


def dense_bytes(job: Job) -> float:
    """Return the logits of one rank's share of a batch."""
    return job.predictions * job.outputs * ITEM_BYTES[job.logits_dtype] / job.ranks_per_peer


def _ranks_that_divide(job: Job) -> int:
    return job.ranks_per_peer if job.is_sharded else 1
