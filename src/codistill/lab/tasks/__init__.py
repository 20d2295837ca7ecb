"""What models are trained on: data, model and metric; one file and one row here each.

Other packages add tasks as entry points of the group ``codistill.tasks``, each a class of `base.Task`.
Nothing is imported before it is asked for, so that the names can be listed without loading PyTorch.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

from codistill import plugins
from codistill.errors import RecipeError
from codistill.lab.own_file import is_in_own_file, load_from_file

if TYPE_CHECKING:
    from codistill.lab.tasks.base import Task

_TASKS = {
    "adult": "clicks.adult:Adult",
    "cifar10": "images.cifar10:Cifar10",
    "criteo": "clicks.criteo:Criteo",
    "diabetes130": "clicks.diabetes130:Diabetes130",
    "digits": "images.digits:Digits",
    "digits_clean": "images.digits_clean:DigitsClean",
    "imagenet": "images.imagenet:ImageNet",
    "iwslt14": "translation.iwslt14:Iwslt14",
    "multi30k": "translation.multi30k:Multi30k",
    "novels": "language.novels:Novels",
    "shakespeare": "language.shakespeare:Shakespeare",
    "tatoeba": "translation.tatoeba:Tatoeba",
    "text_folder": "language.text_folder:TextFolder",
    "wikitext2": "language.wikitext2:WikiText2",
    "wmt16": "translation.wmt16:Wmt16",
}
"""Name -> module below this one, and class."""


def names() -> tuple[str, ...]:
    """Return the names of all tasks, sorted, with those that installed packages declare."""
    return tuple(sorted({*_TASKS, *plugins.names("codistill.tasks")}))


def is_own(name: str) -> bool:
    """Return whether a name says where a user's own task is: ``"FILE.py:CLASS"``."""
    return is_in_own_file(name)


def load(name: str, *, data_root: Path) -> "Task":
    """Return a task with its training and validation data.

    Args:
        name: One of `names`, or ``"FILE.py:CLASS"``.
        data_root: Folder that holds the data sets' folders; tasks that bring their data ignore it.

    Raises:
        RecipeError: If there is no such task.
        ValueError: If the package that declares it cannot be used.
        DataMissingError: If its data are not under ``data_root``.
        ExtraMissingError: If a package that reads the data is not installed.
    """
    return task_class(name)(data_root)


def task_class(name: str) -> "type[Task]":
    """Return the class of a task.

    Raises:
        RecipeError: If there is no such task.
        ValueError: If the package that declares it cannot be used.
    """
    if is_own(name):
        return cast("type[Task]", load_from_file(name, what="task"))
    if name not in _TASKS:
        return _declared(name)
    module, _, attribute = _TASKS[name].partition(":")
    found = getattr(importlib.import_module(f"codistill.lab.tasks.{module}"), attribute)
    return cast("type[Task]", found)


def _declared(name: str) -> "type[Task]":
    """Return the task that an installed package declares under a name."""
    from codistill.lab.tasks.base import Task

    plugin = plugins.find("codistill.tasks", name)
    if plugin is None:
        raise RecipeError(f"task must be one of {', '.join(names())}, got {name!r}.")
    found = plugin.load()
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise plugin.refusal("be a class of codistill.lab.tasks.base.Task", found)
    return found
