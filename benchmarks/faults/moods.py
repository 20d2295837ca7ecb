"""A folder store that is slow, hangs, fails half of the time or loses its answers, as a file says."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from typing_extensions import override

from codistill.errors import StoreError
from codistill.stores.directory import DirectoryStore
from faults.trainer import Job

MOODS: Final = ("slow", "hangs", "flaky", "loses answers")
_SLOW_S: Final = 0.3
_POLL_S: Final = 0.05


class MoodyStore(DirectoryStore):
    """A folder in one of ``MOODS``, or none, as the file beside it says at each call."""

    def __init__(self, path: Path, mood_path: Path) -> None:
        """Open the folder.

        Args:
            path: The run's.
            mood_path: The file; there is no mood while it is not there.
        """
        super().__init__(path)
        self._mood_path = mood_path
        self._rng = random.Random(str(path))

    @override
    def _read(self, key: str, *, max_bytes: int, start: int) -> bytes:
        with self._suffering(key):
            return super()._read(key, max_bytes=max_bytes, start=start)

    @override
    def _write(self, key: str, content: bytes | memoryview | Path) -> None:
        with self._suffering(key):
            super()._write(key, content)

    @override
    def _create(self, key: str, content: bytes) -> bool:
        with self._suffering(key):
            return super()._create(key, content)

    @override
    def _delete(self, key: str) -> None:
        with self._suffering(key):
            super()._delete(key)

    @override
    def _list_names(self, prefix: str, *, limit: int) -> list[str]:
        with self._suffering(prefix):
            return super()._list_names(prefix, limit=limit)

    @contextmanager
    def _suffering(self, key: str) -> Iterator[None]:
        mood = self._mood()
        if mood == "slow":
            time.sleep(_SLOW_S)
        while mood == "hangs" and self._mood() == mood:
            time.sleep(_POLL_S)
        if mood == "flaky" and self._rng.random() < 0.5:
            raise StoreError(f"The store is flaky, and {key!r} was not reached.", key=key)
        yield
        if mood == "loses answers" and self._rng.random() < 0.5:
            raise StoreError(f"The store has lost its answer about {key!r}.", key=key)

    def _mood(self) -> str:
        try:
            return self._mood_path.read_text()
        except OSError:
            return ""


def open_moody(job: Job) -> MoodyStore:
    """Return the store of a job, whose mood stands in the job's folder."""
    return MoodyStore(job.store, job.folder / "mood")
