"""What models are trained on: data, model and metric; one file and one row here each.

Nothing is imported before it is asked for, so that the names can be listed without loading PyTorch.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

from codistill.errors import RecipeError

if TYPE_CHECKING:
    from codistill.lab.tasks.base import Task

_TASKS = {
    "cifar10": "Cifar10",
    "digits": "Digits",
    "digits_clean": "DigitsClean",
}
"""Name, which is that of the module too -> class."""


def names() -> tuple[str, ...]:
    """Return the names of all tasks, sorted."""
    return tuple(sorted(_TASKS))


def load(name: str, *, data_root: Path) -> "Task":
    """Return a task with its training and validation data.

    Args:
        name: One of `names`.
        data_root: Folder that holds the data sets' folders; tasks that bring their data ignore it.

    Raises:
        RecipeError: If there is no such task.
        DataMissingError: If its data are not under ``data_root``.
        ExtraMissingError: If a package that reads the data is not installed.
    """
    return task_class(name)(data_root)


def task_class(name: str) -> "type[Task]":
    """Return the class of a task.

    Raises:
        RecipeError: If there is no such task.
    """
    if name not in _TASKS:
        raise RecipeError(f"task must be one of {', '.join(names())}, got {name!r}.")
    module = importlib.import_module(f"codistill.lab.tasks.{name}")
    return cast("type[Task]", getattr(module, _TASKS[name]))
