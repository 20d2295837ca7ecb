"""Background work without threads, for tests that must come out the same every time."""

from typing import final

from typing_extensions import override

from codistill.exchange.checkpoint.background import Background, Job, Outcome, Worker


@final
class InlineBackground(Background):
    """Does every job when it is offered, in the thread that offers it.

    Repeated jobs are done when the test calls ``tick``.

    Example:
        >>> background = InlineBackground()
        >>> worker = background.worker("fetch")
        >>> worker.offer(lambda: 1 + 1), worker.is_idle
        (True, False)
        >>> worker.take().result
        2
    """

    def __init__(self) -> None:
        self._repeated: list[Job] = []

    @override
    def worker(self, name: str) -> Worker:
        return _InlineWorker()

    @override
    def repeat(self, name: str, job: Job, period_s: float) -> None:
        self._repeated.append(job)

    @override
    def stop(self, timeout_s: float) -> list[str]:
        self._repeated.clear()
        return []

    def tick(self) -> None:
        """Do every repeated job once."""
        for job in self._repeated:
            job()


class _InlineWorker(Worker):
    def __init__(self) -> None:
        self._outcome: Outcome | None = None

    @property
    @override
    def is_idle(self) -> bool:
        return self._outcome is None

    @override
    def offer(self, job: Job) -> bool:
        if self._outcome is not None:
            return False
        self._outcome = Outcome.of(job)
        return True

    @override
    def take(self) -> Outcome | None:
        outcome, self._outcome = self._outcome, None
        return outcome

    @override
    def wait(self, timeout_s: float) -> bool:
        return True
