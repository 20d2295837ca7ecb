"""Where the jobs of a run are started: one file and one row here each.

Nothing is imported before it is asked for: on a machine without Slurm or Ray neither is missed.
"""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from codistill.errors import RecipeError

if TYPE_CHECKING:
    from codistill.lab.launchers.base import Launcher

_LAUNCHERS = {"local": "LocalLauncher", "ray": "RayLauncher", "slurm": "SlurmLauncher"}
"""Name, which is that of the module too -> class."""


def names() -> tuple[str, ...]:
    """Return the names of all launchers, sorted."""
    return tuple(sorted(_LAUNCHERS))


def launcher(name: str, settings: Sequence[str] = ()) -> "Launcher":
    """Return a launcher.

    Args:
        name: One of `names`.
        settings: What its jobs are to have: ``KEY=VALUE``, in its system's own words.

    Raises:
        RecipeError: If there is no such launcher, or it has no such setting; those there are are listed.
    """
    if name not in _LAUNCHERS:
        raise RecipeError(f"on must be one of {', '.join(_LAUNCHERS)}, got {name!r}. local is this machine.")
    module = importlib.import_module(f"codistill.lab.launchers.{name}")
    chosen = cast("type[Launcher]", getattr(module, _LAUNCHERS[name]))
    return chosen.from_settings(settings)
