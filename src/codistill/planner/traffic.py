"""What crosses between peers and inside one, in bytes, by the formulas of the papers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

from codistill.exchange.checkpoint.lives import HEARTBEAT_S
from codistill.exchange.prediction.codec import PredictionCodec, as_codec
from codistill.planner.job import ITEM_BYTES, Job
from codistill.planner.snapshot_size import manifest_bytes, snapshot_bytes
from codistill.snapshots.shards import CHUNK_BYTES

# Documents of a run, within a few bytes: tests encode real ones and compare.
_POINTER_BYTES: Final = 304
_STATUS_BYTES: Final = 257
# A request and its answer on the wire, besides what it carries: S3 over HTTP, measured. SFTP has half of it.
_REQUEST_BYTES: Final = 1300
_ANSWER_BYTES: Final = 900
# What a rank's swap with one other peer costs each way besides the predictions, on the wire, measured over
# gloo: a description that goes ahead, gloo's own messages, and that all of these are small.
_SWAP_BYTES: Final = 1450
_HEADERS_OF_A_FRAME: Final = 66
"""Ethernet (14), IP (20) and TCP with timestamps (32)."""


@final
@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one peer.

    Example:
        >>> 2 * Traffic(sent_bytes=3, received_bytes=1) + Traffic(sent_bytes=1, received_bytes=0)
        Traffic(sent_bytes=7, received_bytes=2)
    """

    sent_bytes: float
    """Bytes that leave it."""
    received_bytes: float
    """Bytes that come to it."""

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.sent_bytes + other.sent_bytes, self.received_bytes + other.received_bytes)

    def __rmul__(self, factor: float) -> "Traffic":
        return Traffic(factor * self.sent_bytes, factor * self.received_bytes)

    @property
    def total_bytes(self) -> float:
        """Both directions together, as a counter of an interface that adds them up would say."""
        return self.sent_bytes + self.received_bytes

    @property
    def busier_bytes(self) -> float:
        """Those of the direction that has more of them, which is what a link takes its time for."""
        return max(self.sent_bytes, self.received_bytes)

    def on_wire(self, frame_bytes: int) -> "Traffic":
        """Return what an interface counts of it: with the headers of TCP, and its acknowledgements.

        Args:
            frame_bytes: The largest frame that is counted; every other one is acknowledged by a frame without
                content.

        Example:
            >>> Traffic(1448_000, 0).on_wire(1514)
            Traffic(sent_bytes=1514000.0, received_bytes=33000.0)
        """
        content_bytes = frame_bytes - _HEADERS_OF_A_FRAME
        data, acknowledgements = frame_bytes / content_bytes, _HEADERS_OF_A_FRAME / (2 * content_bytes)
        return Traffic(
            self.sent_bytes * data + self.received_bytes * acknowledgements,
            self.received_bytes * data + self.sent_bytes * acknowledgements,
        )


NOTHING: Final = Traffic(0.0, 0.0)


def all_reduce_bytes(size_bytes: float, ranks: int) -> float:
    """Return what each rank sends, and receives, to average ``size_bytes`` over so many.

    2 (w - 1) / w of them, the least there can be, which rings reach (gloo's and NCCL's alike).

    Example:
        >>> all_reduce_bytes(102.4e6, 16), all_reduce_bytes(102.4e6, 8)
        (192000000.0, 179200000.0)
    """
    return 2 * (ranks - 1) * size_bytes / ranks


def break_even_interval_steps(weights_bytes: float, prediction_bytes_per_step: float) -> float:
    """Return T*, the interval above which snapshots cost less than predictions.

    P s_w / (B C s_p) where both come from as many peers: a snapshot of P weights of s_w bytes every T steps
    against B predictions of C outputs of s_p bytes at each.

    Example:
        >>> break_even_interval_steps(25.6e6 * 4, 256 * 1000 * 4)
        100.0
    """
    return weights_bytes / prediction_bytes_per_step


def publish(job: Job, codec: str, frame_bytes: int) -> Traffic:
    """Return what one publish sends and receives, on the wire.

    The shards, the manifest and the pointer are written; whether the name is still its own, and which of its
    snapshots the others are reading, is read; what nobody needs any more is deleted.
    """
    shards = _shards(job)
    content = Traffic(
        snapshot_bytes(job.model, codec, shards=shards)
        + manifest_bytes(job.model, codec, shards=shards)
        + _POINTER_BYTES,
        (job.peers - 1) * _STATUS_BYTES,
    )
    writes, reads, deletes = shards + 2, 1 + job.peers - 1, shards + 1
    return content.on_wire(frame_bytes) + _requests(writes + reads + deletes)


def fetch(job: Job, codec: str, frame_bytes: int) -> Traffic:
    """Return what one look sends and receives that finds new snapshots of all teachers, on the wire.

    The pointers of all peers are read; of each teacher, the manifest and the shards, 8 MiB a request; and
    before that it is told to the others in a status.
    """
    shards, teachers = _shards(job), job.teachers
    size_bytes = snapshot_bytes(job.model, codec, shards=shards)
    content = Traffic(
        teachers * _STATUS_BYTES,
        (job.peers - 1) * _POINTER_BYTES
        + teachers * (size_bytes + manifest_bytes(job.model, codec, shards=shards)),
    )
    chunks = max(shards, math.ceil(size_bytes / CHUNK_BYTES))
    requests = job.peers - 1 + teachers * (1 + 2 + chunks)
    return content.on_wire(frame_bytes) + _requests(requests)


def heartbeat(job: Job, frame_bytes: int) -> Traffic:
    """Return what a peer's signs of life come to a step, on the wire; nothing if ``step_s`` is unknown."""
    if job.step_s is None:
        return NOTHING
    beat = Traffic(_STATUS_BYTES, 0).on_wire(frame_bytes) + _requests(2)
    return job.step_s / HEARTBEAT_S * beat


def swap(job: Job, size_bytes: int, frame_bytes: int) -> Traffic:
    """Return what it sends and receives to swap predictions with all other peers, on the wire.

    Each rank swaps those of its share of the batch with its counterpart in every other peer.
    """
    content = Traffic(size_bytes, size_bytes).on_wire(frame_bytes)
    beside = job.ranks_per_peer * Traffic(_SWAP_BYTES, _SWAP_BYTES)
    return (job.peers - 1) * (content + beside)


def prediction_codecs(job: Job) -> Iterator[tuple[str, PredictionCodec]]:
    """Yield the codecs of predictions that are planned for, by the names of their schemes."""
    yield "exact", as_codec("exact")
    yield "bfloat16", as_codec("bfloat16")
    if job.top_k is not None:
        yield "top_k", job.top_k


def prediction_bytes(job: Job, codec: PredictionCodec) -> int:
    """Return the bytes of a peer's own predictions of one step."""
    return codec.nbytes(job.predictions, job.outputs, itemsize=ITEM_BYTES[job.logits_dtype])


def _shards(job: Job) -> int:
    return job.ranks_per_peer if job.is_sharded else 1


def _requests(count: int) -> Traffic:
    return Traffic(count * _REQUEST_BYTES, count * _ANSWER_BYTES)
