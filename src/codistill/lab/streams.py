"""Several launches at once, so that all cores are busy while runs of few processes are trained."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace

from codistill.lab import methods, provenance
from codistill.lab.folder import RunFolder
from codistill.lab.launch import LaunchOptions, OnProgress, launch
from codistill.lab.recipe import Recipe


class StreamEnded(Exception):  # noqa: N818 - it ends a stream, and is no error of its own
    """Another stream has failed, or the user has interrupted: end the jobs of this one."""


def launch_streams(
    folder: RunFolder,
    recipes: Sequence[Recipe],
    *,
    options: LaunchOptions,
    on_progress: OnProgress | None = None,
) -> None:
    """Train recipes of one shape, as many at once as there are cores for.

    Args:
        folder: The results folder.
        recipes: As for `launch`.
        options: As for `launch`; ``cores`` are shared by all streams.
        on_progress: As for `launch`; called by one thread at a time.

    Raises:
        RecipeError, StoreError, DataMissingError, ExtraMissingError, JobError: As `launch` does; the first
            of all streams.

    **Blocks**: until all have finished.

    **On failure**: the jobs of all streams are ended.
    """
    plan = methods.method(recipes[0].method).plan(recipes[0])
    cores = options.cores or provenance.cores()
    count = max(1, min(len(recipes), cores // (len(plan.jobs) * plan.processes)))
    is_over = threading.Event()
    progress = _Progress(on_progress, is_over, recipes)
    share = max(1, cores // count)

    def stream(number: int) -> None:
        own = replace(options, cores=share, logs=f"stream-{number}" if count > 1 else options.logs)
        launch(folder, recipes[number::count], options=own, on_progress=progress.of(number))

    with ThreadPoolExecutor(max_workers=count, thread_name_prefix="stream") as threads:
        try:
            futures = [threads.submit(stream, number) for number in range(count)]
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Also after Ctrl-C, which reaches this thread alone: leaving the pool waits for its threads.
            is_over.set()
    _raise_first(futures)


def _raise_first(futures: Sequence["Future[None]"]) -> None:
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None and not isinstance(error, StreamEnded):
            raise error


class _Progress:
    """Adds up what the streams tell."""

    def __init__(
        self, on_progress: OnProgress | None, is_over: threading.Event, recipes: Sequence[Recipe]
    ) -> None:
        self._on_progress = on_progress
        self._is_over = is_over
        self._lock = threading.Lock()
        self._done: dict[str, Counter[int]] = {}
        # Known before all streams have told theirs.
        self._total: Counter[str] = Counter()
        for recipe in recipes:
            self._total[recipe.label] += recipe.updates

    def of(self, stream: int) -> OnProgress:
        """Return what a stream is to tell its progress to; it raises once the streams are to end."""

        def tell(label: str, done: int, total: int) -> None:
            if self._is_over.is_set() and done < total:
                raise StreamEnded
            if self._on_progress is None:
                return
            with self._lock:
                self._done.setdefault(label, Counter())[stream] = done
                self._on_progress(label, self._done[label].total(), self._total[label])

        return tell
