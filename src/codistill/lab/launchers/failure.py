"""What is said of a job that failed, from what its ranks left."""

from collections.abc import Iterable
from pathlib import Path

from codistill.errors import JobError
from codistill.lab.job import Job

_LOG_LINES = 40


def failure(job: Job, *, ranks: int, how: str) -> JobError:
    """Return the error of a job that has failed.

    It says what a user can mend, if a rank said so; else it ends with the traceback of the rank that failed
    first, or with the last lines of the log.

    Args:
        job: The job.
        ranks: Its processes.
        how: How it ended, as whoever ran it knows, such as "with exit code 1".
    """
    errors = _oldest_first(map(job.error_path, range(ranks)))
    if errors:
        said = f"The job of peer {job.peer!r} failed: {_read(errors[0])} Its log is {job.log_path}."
        return JobError(said, peer=job.peer)
    sources = [*_oldest_first(map(job.traceback_path, range(ranks))), job.log_path]
    lines = "\n".join(_read(sources[0]).splitlines()[-_LOG_LINES:])
    said = f"The job of peer {job.peer!r} failed {how}. Its log is {job.log_path}.\n{lines}"
    return JobError(said, peer=job.peer)


def _oldest_first(paths: Iterable[Path]) -> list[Path]:
    """Return those that exist: what failed first made the other ranks fail."""
    return sorted((path for path in paths if path.exists()), key=lambda path: path.stat().st_mtime_ns)


def _read(path: Path) -> str:
    # A job that never started has no log.
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""
