"""Publishing a model that ranks divide among them."""

import time
from typing import Final, Literal, final

from typing_extensions import override

from codistill.errors import StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.agreement import Agreement
from codistill.exchange.checkpoint.background import Outcome, Worker
from codistill.exchange.checkpoint.publisher import Publisher
from codistill.exchange.checkpoint.publishing import FOR_EVER_S, Published, Publishing
from codistill.exchange.checkpoint.shard_writer import ShardWriter
from codistill.parallel.group import PeerRanks
from codistill.snapshots.written_shard import WrittenShard

# Also if the shards have taken all the time: to delete them, if there is to be no snapshot.
_LAST_WORD_S: Final = 1.0


@final
class ShardedPublishing(Publishing):
    """Publishes snapshots of which every rank writes its own shard.

    All ranks stage at the same step; each writes its shard in the background. When all have, they tell rank
    0 what they wrote, and it writes manifest and pointer in the background. How far this is changes only
    where ranks meet, so that all know it, and decide alike whether an interval finds it busy.

    **On failure**: a store that fails on any rank makes all give up this snapshot; what was written of it is
    deleted. Any other error is raised on all ranks.
    """

    is_collective = True

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
        super().__init__(worker)
        self._writer = writer
        self._publisher = publisher
        self._ranks = ranks
        self._agreement = agreement
        self._phase: Literal["idle", "writing", "pointing"] = "idle"
        self._sequence = -1
        self._progress = Progress()
        self._is_last = False
        self._outcome: Outcome | None = None
        self._error: StoreError | None = None

    @property
    @override
    def is_under_way(self) -> bool:
        return self._phase != "idle"

    @property
    @override
    def is_waiting(self) -> bool:
        if self.is_under_way and self._outcome is None:
            self._outcome = self._worker.take()
        return self.is_under_way and self._outcome is None

    @override
    def begin(self, progress: Progress, *, finished: bool = False) -> None:
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

    @override
    def advance(self) -> Published | None:
        if not self.is_under_way:
            return None
        outcome = self._outcome
        assert outcome is not None
        self._outcome = None
        error = outcome.error
        # Whatever is raised, nothing is under way then.
        phase, self._phase = self._phase, "idle"
        self._agreement.meet(None if isinstance(error, StoreError) else error)
        (has_failed,) = self._ranks.maximum([error is not None])
        if phase == "writing":
            self._point(outcome, has_failed=bool(has_failed))
            return None
        if isinstance(error, StoreError):
            self._error = error
        failure, self._error = self._error, None
        (has_failed,) = self._ranks.maximum([failure is not None])
        written = 0 if has_failed else self._writer.size_bytes + (outcome.result or 0)
        return Published(has_failed=bool(has_failed), bytes_written=written, error=failure)

    @override
    def publish_now(self, progress: Progress, *, finished: bool = False) -> Published:
        self.begin(progress, finished=finished)
        published = self.finish()
        assert published is not None
        self._agreement.meet(published.error)
        return published

    @override
    def finish(self, *, timeout_s: float = FOR_EVER_S) -> Published | None:
        published = None
        deadline_s = time.monotonic() + timeout_s
        while self.is_under_way:
            remaining_s = max(
                deadline_s - time.monotonic(), _LAST_WORD_S if self._phase == "pointing" else 0.0
            )
            if self.is_waiting and not self._worker.wait(remaining_s):
                self._outcome = Outcome(error=StoreError("The store has not answered in time."))
            assert not self.is_waiting
            published = self.advance()
        return published

    def _point(self, outcome: Outcome, *, has_failed: bool) -> None:
        """Let rank 0 write manifest and pointer, or delete what nobody will point to."""
        self._phase = "pointing"
        said: bytes = b"" if has_failed else outcome.result
        if outcome.error is not None:
            said = (str(outcome.error) or type(outcome.error).__name__).encode()
        contents = self._ranks.gather(said)
        publisher, sequence = self._publisher, self._sequence
        if contents is None or publisher is None:
            self._outcome = Outcome()
        elif has_failed:
            rank, message = next((rank, content) for rank, content in enumerate(contents) if content)
            self._error = StoreError(
                f"Rank {rank} of this peer could not write its shard: {message.decode()}"
            )
            if not self._worker.offer(lambda: publisher.abandon(sequence, shards=self._writer.count)):
                # It is this rank's store that hangs; what the others have written stays, and nobody reads it.
                self._outcome = Outcome()
        else:
            written = [WrittenShard.from_json(content) for content in contents if content]
            progress, finished = self._progress, self._is_last
            self._worker.offer(
                lambda: publisher.publish_written(written, progress, sequence=sequence, finished=finished)
            )
