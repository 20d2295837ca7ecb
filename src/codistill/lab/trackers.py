"""Where the metrics of a run are shown besides ``metrics.jsonl``: a CSV file, TensorBoard, W&B, trackio."""

import csv
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from typing_extensions import override

from codistill.errors import RecipeError
from codistill.extras import check_installed, require
from codistill.lab import documents
from codistill.lab import recipe as recipes
from codistill.lab.folder import RunFolder
from codistill.lab.recipe import Recipe
from codistill.lab.results import Evaluation

CSV = "metrics.csv"
TENSORBOARD = "tensorboard"

Numbers = Mapping[str, float]


class Tracker(ABC):
    """Shows the numbers of one peer as they come.

    Args:
        recipe: What is trained.
        folder: The results folder of the run.
        peer: Name of the peer.
    """

    @abstractmethod
    def __init__(self, recipe: Recipe, folder: RunFolder, peer: str) -> None: ...

    @abstractmethod
    def show(self, step: int, numbers: Numbers) -> None:
        """Show one evaluation, after ``step`` updates."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""


class _Csv(Tracker):
    """``metrics.csv`` beside ``metrics.jsonl``, rewritten with each row, as columns may be added."""

    @override
    def __init__(self, recipe: Recipe, folder: RunFolder, peer: str) -> None:
        self._path = folder.peer_path(recipe.label, recipe.seed, peer) / CSV
        self._rows: list[dict[str, float]] = []
        if self._path.exists():
            with self._path.open(newline="", encoding="utf-8") as file:
                self._rows = [
                    {name: float(value) for name, value in row.items() if value}
                    for row in csv.DictReader(file)
                ]

    @override
    def show(self, step: int, numbers: Numbers) -> None:
        # A run that goes on from a checkpoint makes some rows again.
        self._rows = [row for row in self._rows if row["step"] < step] + [{"step": step, **numbers}]
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(self._rows)

    @override
    def close(self) -> None:
        pass


class _TensorBoard(Tracker):
    """Event files in ``<out>/tensorboard``, a run for each peer of each arm and seed."""

    @override
    def __init__(self, recipe: Recipe, folder: RunFolder, peer: str) -> None:
        writer: Any = require("torch.utils.tensorboard", "lab").SummaryWriter
        path = folder.path / TENSORBOARD / recipe.label / f"seed-{recipe.seed}" / peer
        self._writer = writer(str(path))

    @override
    def show(self, step: int, numbers: Numbers) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    @override
    def close(self) -> None:
        self._writer.close()


class _Runs(Tracker):
    """A service whose module has ``init``, ``log`` and ``finish``, as wandb and trackio have."""

    module = ""

    @override
    def __init__(self, recipe: Recipe, folder: RunFolder, peer: str) -> None:
        self._service: Any = require(self.module, self.module)
        self._run = self._service.init(
            project=f"codistill-{recipe.name}",
            name=f"{recipe.label}-{recipe.seed}-{peer}",
            group=f"{recipe.label}-{recipe.seed}",
            config={**recipes.to_document(recipe), "peer": peer, "results": str(folder.path)},
        )

    @override
    def show(self, step: int, numbers: Numbers) -> None:
        self._run.log(dict(numbers), step=step)

    @override
    def close(self) -> None:
        self._run.finish()


class _Wandb(_Runs):
    module = "wandb"


class _Trackio(_Runs):
    module = "trackio"


_TRACKERS: Mapping[str, type[Tracker]] = {
    "csv": _Csv,
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
    "wandb": _Wandb,
}
_NEEDS = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}


def check(names: Sequence[str]) -> None:
    """Check that trackers exist and that what they need is installed.

    Raises:
        RecipeError: If there is no such tracker.
        ExtraMissingError: If its package is not installed.
    """
    for name in names:
        if name not in _TRACKERS:
            raise RecipeError(f"trackers must be of {', '.join(sorted(_TRACKERS))}, got {name!r}.")
        if name in _NEEDS:
            check_installed(_NEEDS[name], "lab" if name == "tensorboard" else name)


@contextmanager
def open_trackers(
    names: Sequence[str], recipe: Recipe, folder: RunFolder, *, rank: int
) -> Iterator[Callable[[str, Evaluation], None]]:
    """Show the evaluations of a run while it is being trained.

    Args:
        names: Which trackers.
        recipe: What is trained.
        folder: The results folder.
        rank: Only rank 0 shows anything.

    Yields:
        A function of a peer's name and a row of its metrics.
    """
    opened: dict[str, list[Tracker]] = {}
    with ExitStack() as stack:

        def track(peer: str, row: Evaluation) -> None:
            if peer not in opened:
                opened[peer] = []
                for name in names if rank == 0 else ():
                    tracker = _TRACKERS[name](recipe, folder, peer)
                    stack.callback(tracker.close)
                    opened[peer].append(tracker)
            for tracker in opened[peer]:
                tracker.show(row.step, numbers_of(row))

        yield track


def numbers_of(row: Evaluation) -> dict[str, float]:
    """Return the numbers of a row by name; what is held by teacher as ``name/peer``.

    Example:
        >>> from codistill.lab.results import Evaluation
        >>> row = Evaluation(step=5, samples=40, train_loss=1.0, distillation_loss=None,
        ...     validation_accuracy=0.5, validation_nll=1.2, distance=0.1, learning_rate=0.1,
        ...     weight_decay=0.0, teacher_share=1.0, agreements={"b": 0.75})
        >>> numbers_of(row)["agreements/b"], "distillation_loss" in numbers_of(row)
        (0.75, False)
    """
    found: dict[str, float] = {}
    for name, value in documents.to_document(row).items():
        if isinstance(value, dict):
            found |= {f"{name}/{peer}": number for peer, number in value.items() if number is not None}
        elif isinstance(value, int | float) and name != "step":
            found[name] = value
    return found
