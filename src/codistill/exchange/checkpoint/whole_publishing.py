"""Publishing a model that every rank holds whole: rank 0 does it."""

from typing import final

from typing_extensions import override

from codistill.errors import StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.background import Outcome, Worker
from codistill.exchange.checkpoint.publishing import FOR_EVER_S, Published, Publishing
from codistill.exchange.checkpoint.store_side import StoreSide


@final
class WholePublishing(Publishing):
    """Publishes from rank 0; the others have nothing to do, and nothing is ever under way there."""

    def __init__(self, side: StoreSide | None, worker: Worker) -> None:
        """Begin with nothing published.

        Args:
            side: What speaks with the store; on rank 0.
            worker: Does the writing.
        """
        super().__init__(worker)
        self._side = side

    @property
    @override
    def is_under_way(self) -> bool:
        return self._side is not None and not self._worker.is_idle

    @override
    def begin(self, progress: Progress, *, finished: bool = False) -> None:
        side = self._side
        if side is not None:
            side.stage()
            self._worker.offer(lambda: _publish(side, progress, finished=finished))

    @override
    def poll(self) -> Published | None:
        outcome = self._worker.take()
        return None if outcome is None else _published(outcome)

    @override
    def finish(self, *, timeout_s: float = FOR_EVER_S) -> Published | None:
        if self._worker.wait(timeout_s):
            return self.poll()
        return Published(has_failed=True)

    @override
    def publish_now(self, progress: Progress, *, finished: bool = False) -> Published:
        if self._side is None:
            return Published()
        self._side.stage()
        return Published(bytes_written=self._side.publish(progress, finished=finished))


def _publish(side: StoreSide, progress: Progress, *, finished: bool) -> int:
    # A name that has been taken over is not ours to write under.
    if side.heartbeat.is_superseded:
        return 0
    written = side.publish(progress, finished=finished)
    side.heartbeat.try_to_beat()
    return written


def _published(outcome: Outcome) -> Published:
    if isinstance(outcome.error, StoreError):
        return Published(has_failed=True, error=outcome.error)
    if outcome.error is not None:
        raise outcome.error
    return Published(bytes_written=outcome.result)
