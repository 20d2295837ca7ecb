"""Publishing a model that ranks divide among them."""

from dataclasses import dataclass
from typing import Final, Literal, final

from codistill.errors import StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.agreement import Agreement
from codistill.exchange.checkpoint.background import Outcome, Worker
from codistill.exchange.checkpoint.publisher import Publisher
from codistill.exchange.checkpoint.shard_writer import ShardWriter
from codistill.parallel.group import PeerRanks
from codistill.snapshots.written_shard import WrittenShard

FOR_EVER_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What became of a snapshot."""

    has_failed: bool
    """Whether some rank's store has failed; the same on all ranks."""
    bytes_written: int = 0
    """What this rank wrote of it."""
    error: StoreError | None = None
    """On rank 0, what has failed."""


@final
class ShardedPublishing:
    """Publishes snapshots of which every rank writes its own shard.

    All ranks stage at the same step; each writes its shard in the background. When all have, they tell rank
    0 what they wrote, and it writes manifest and pointer in the background. How far this is changes only
    where ranks meet, so that all know it, and decide alike whether an interval finds it busy.

    **Ranks**: all of the peer, every method but ``is_waiting`` at the same step.
    **Blocks**: ``begin`` for one copy, ``advance`` for a word with the others, ``publish_now`` until done.
    **On failure**: a store that fails on any rank makes all give up this snapshot; what was written of it is
    deleted. Any other error is raised on all ranks.
    """

    def __init__(
        self,
        writer: ShardWriter,
        publisher: Publisher | None,
        *,
        ranks: PeerRanks,
        agreement: Agreement,
        worker: Worker,
    ) -> None:
        """Begin with nothing published.

        Args:
            writer: Writes this rank's shard.
            publisher: Writes manifest and pointer; on rank 0.
            ranks: The ranks of the peer.
            agreement: How they fail together.
            worker: Does the writing.
        """
        self._writer = writer
        self._publisher = publisher
        self._ranks = ranks
        self._agreement = agreement
        self._worker = worker
        self._phase: Literal["idle", "writing", "pointing"] = "idle"
        self._sequence = -1
        self._progress = Progress()
        self._is_last = False
        self._outcome: Outcome | None = None
        self._error: StoreError | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether a snapshot has been begun and has not become anything yet; the same on all ranks."""
        return self._phase != "idle"

    @property
    def is_waiting(self) -> bool:
        """Whether this rank has something to do before the ranks can go on."""
        if self.is_under_way and self._outcome is None:
            self._outcome = self._worker.take()
        return self.is_under_way and self._outcome is None

    def begin(self, progress: Progress, *, finished: bool = False) -> None:
        """Stage the weights as they are now, and begin to write them.

        Args:
            progress: How far the student is.
            finished: No other will follow.
        """
        assert not self.is_under_way
        self._phase, self._progress, self._is_last = "writing", progress, finished
        self._sequence += 1
        sequence = self._sequence
        try:
            self._writer.stage()
        except Exception as error:  # noqa: BLE001 - raised on all ranks when they meet
            self._outcome = Outcome(error=error)
        else:
            self._outcome = None
            self._worker.offer(lambda: self._writer.write(sequence))

    def advance(self) -> Published | None:
        """Go on, no rank being waited for; return what became of the snapshot, None if that is still open."""
        outcome = self._outcome
        assert outcome is not None
        self._outcome = None
        error = outcome.error
        self._agreement.meet(None if isinstance(error, StoreError) else error)
        (has_failed,) = self._ranks.maximum([error is not None])
        if self._phase == "writing":
            self._point(outcome, has_failed=bool(has_failed))
            return None
        self._phase = "idle"
        if isinstance(error, StoreError):
            self._error = error
        failure, self._error = self._error, None
        (has_failed,) = self._ranks.maximum([failure is not None])
        written = 0 if has_failed else self._writer.size_bytes + (outcome.result or 0)
        return Published(has_failed=bool(has_failed), bytes_written=written, error=failure)

    def publish_now(
        self, progress: Progress, *, finished: bool = False, timeout_s: float = FOR_EVER_S
    ) -> Published:
        """Publish, and wait for it.

        Args:
            progress: How far the student is.
            finished: No other will follow.
            timeout_s: How long a rank's store may take.
        """
        self.begin(progress, finished=finished)
        published = self.finish(timeout_s=timeout_s)
        assert published is not None
        return published

    def finish(self, *, timeout_s: float = FOR_EVER_S) -> Published | None:
        """Wait for what is under way; return what became of it, None if nothing was.

        Args:
            timeout_s: How long a rank's store may take.
        """
        published = None
        while self.is_under_way:
            if self.is_waiting and not self._worker.wait(timeout_s):
                self._outcome = Outcome(error=StoreError(f"It has not answered within {timeout_s:g} s."))
            assert not self.is_waiting
            published = self.advance()
        return published

    def _point(self, outcome: Outcome, *, has_failed: bool) -> None:
        """Let rank 0 write manifest and pointer, or delete what nobody will point to."""
        self._phase = "pointing"
        said = str(outcome.error).encode() if has_failed and outcome.error is not None else outcome.result
        contents = self._ranks.gather(b"" if has_failed and outcome.error is None else said)
        publisher, sequence = self._publisher, self._sequence
        if contents is None or publisher is None:
            self._outcome = Outcome()
        elif has_failed:
            rank, message = next((rank, content) for rank, content in enumerate(contents) if content)
            self._error = StoreError(
                f"Rank {rank} of this peer could not write its shard: {message.decode()}"
            )
            self._worker.offer(lambda: publisher.abandon(sequence, shards=self._writer.count))
        else:
            written = [WrittenShard.from_json(content) for content in contents if content]
            progress, finished = self._progress, self._is_last
            self._worker.offer(
                lambda: publisher.publish_written(written, progress, sequence=sequence, finished=finished)
            )
