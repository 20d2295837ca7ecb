"""What one job, the processes that are started together, is told to do: a JSON file."""

from dataclasses import dataclass
from pathlib import Path

from codistill.lab import documents, recipe, results
from codistill.lab.folder import RunFolder
from codistill.lab.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The runs that one peer, or several in one job, take part in, in turn."""

    peer: str
    """Name of the peer, the first if the job trains several."""
    others: tuple[str, ...] = ()
    """Further peers that it trains."""
    recipes: tuple[Recipe, ...]
    """What to train; each has its own label or seed."""
    out: Path
    """The results folder."""
    logs: Path
    """Folder for the log and for tracebacks."""
    data_root: Path
    """Folder that holds the data sets' folders."""
    device: str
    """"auto", "cpu", "cuda", or another device of torch."""
    read_test: bool
    """Whether the test set is read at the end of each run."""
    store: str | None = None
    """Path or URL that the peers meet at; None for a folder in ``out``."""
    trackers: tuple[str, ...] = ()
    """Where metrics are shown besides ``metrics.jsonl``: names of `codistill.lab.trackers`."""

    @property
    def path(self) -> Path:
        """The file that this job is written to."""
        return self.logs / f"{self.peer}.job.json"

    @property
    def log_path(self) -> Path:
        """What the processes print."""
        return self.logs / f"{self.peer}.log"

    def unfinished(self) -> tuple[Recipe, ...]:
        """Return what it has still to train: the runs that lack the result of one of its peers.

        Raises:
            RunExistsError: If ``out`` is no results folder.
        """
        folder = RunFolder(self.out)
        return tuple(
            one
            for one in self.recipes
            if not all(
                (folder.peer_path(one.label, one.seed, peer) / results.RESULT).exists()
                for peer in (self.peer, *self.others)
            )
        )

    def traceback_path(self, rank: int) -> Path:
        """What a rank that failed leaves."""
        return self.logs / f"{self.peer}-{rank}.traceback"

    def error_path(self, rank: int) -> Path:
        """What a rank says of an error that a user can do something about."""
        return self.logs / f"{self.peer}-{rank}.error"


def save_job(job: Job) -> None:
    """Write a job to its file."""
    documents.write_json(
        job.path,
        {
            "peer": job.peer,
            "others": list(job.others),
            "trackers": list(job.trackers),
            "recipes": [recipe.to_document(one) for one in job.recipes],
            "out": str(job.out),
            "logs": str(job.logs),
            "data_root": str(job.data_root),
            "device": job.device,
            "read_test": job.read_test,
            "store": job.store,
        },
    )


def load_job(path: Path) -> Job:
    """Return the job that `save_job` wrote."""
    document = documents.read_json(path)
    return Job(
        peer=document["peer"],
        others=tuple(document["others"]),
        trackers=tuple(document["trackers"]),
        recipes=tuple(recipe.from_document(one, where=str(path)) for one in document["recipes"]),
        out=Path(document["out"]),
        logs=Path(document["logs"]),
        data_root=Path(document["data_root"]),
        device=document["device"],
        read_test=document["read_test"],
        store=document["store"],
    )
