"""What users bring in a file of their own: ``my_task.py:MyTask``, ``my_recipe.py:recipe``."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from codistill.errors import RecipeError

_MARK = ".py:"


def is_in_own_file(word: str) -> bool:
    """Return whether a word is of the form ``FILE.py:NAME``.

    Example:
        >>> is_in_own_file("my_recipe.py:recipe"), is_in_own_file("cifar10")
        (True, False)
    """
    return _MARK in word


def load_from_file(word: str, *, what: str) -> Any:
    """Run a Python file, once a process, and return one of its names.

    Args:
        word: ``FILE.py:NAME``.
        what: What it is to be, for messages.

    Raises:
        RecipeError: If there is no such file or name. What the file itself raises is passed on.
    """
    stem, _, name = word.rpartition(_MARK)
    path = Path(f"{stem}.py").resolve()
    if not path.is_file():
        raise RecipeError(f"{what} must be in a file that exists, got {word!r}. There is no {path}.")
    module_name = f"codistill_own_{path.stem}_{abs(hash(str(path)))}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up while it is being run.
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    if not hasattr(module, name):
        raise RecipeError(f"{what} must be a name in {path}, got {name!r}, which it does not have.")
    return getattr(module, name)
