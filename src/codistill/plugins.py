"""What other packages bring by name: losses, stores and tasks, as entry points of their distributions.

A name of ours is never looked up here, so that no package can change what it means.
"""

import functools
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeAlias, final

Group: TypeAlias = Literal["codistill.losses", "codistill.stores", "codistill.tasks"]
"""What kind of thing a name stands for, which is the group of entry points it is declared in."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A name that an installed package declares; nothing of the package is imported before `load`."""

    group: Group
    """The group it is declared in."""
    name: str
    """Its name there, such as that of a loss or the scheme of a store's URL."""
    package: str
    """Name and version of the distribution that declares it."""
    value: str
    """Where it is: ``module:attribute``."""

    def load(self) -> Any:
        """Import and return what the name stands for; its type is the caller's to check.

        Raises:
            ValueError: If it cannot be imported, whatever its package raises.
        """
        try:
            return EntryPoint(name=self.name, value=self.value, group=self.group).load()
        except Exception as e:
            raise ValueError(
                f"{self.group} {self.name!r} must be importable, got {type(e).__name__}: {e}. "
                f"Mend or remove package {self.package}, which declares it as {self.value!r}."
            ) from e

    def refusal(self, rule: str, found: object) -> ValueError:
        """Return the error for what is not of the type that its group wants.

        Args:
            rule: What it must be.
            found: What it is, or what it returned.
        """
        # No repr: it may hold what a URL held.
        got = f"the class {found.__qualname__}" if isinstance(found, type) else f"a {type(found).__name__}"
        return ValueError(
            f"{self.group} {self.name!r} must {rule}, got {got}. "
            f"Mend or remove package {self.package}, which declares it as {self.value!r}."
        )


def names(group: Group) -> tuple[str, ...]:
    """Return the names that installed packages declare, sorted, without importing any of them."""
    return tuple(sorted({plugin.name for plugin in _declared(group, tuple(sys.path))}))


def find(group: Group, name: str) -> Plugin | None:
    """Return the plug-in of a name, without importing it; None if no installed package declares it.

    Args:
        group: Where to look.
        name: What to look for, once it is known not to be one of ours.

    Raises:
        ValueError: If several packages declare it: nothing says which is meant.
    """
    found = [plugin for plugin in _declared(group, tuple(sys.path)) if plugin.name == name]
    if len(found) > 1:
        packages = " and ".join(sorted(plugin.package for plugin in found))
        raise ValueError(
            f"{group} {name!r} must be declared by one package, got {packages}. Remove all but one of them."
        )
    return found[0] if found else None


@functools.lru_cache(maxsize=16)
def _declared(group: Group, _path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """Return all that is declared in a group by what lies on ``sys.path``, whose length the search takes."""
    return tuple(
        Plugin(
            group=group,
            name=point.name,
            package="of no name" if point.dist is None else f"{point.dist.name} {point.dist.version}",
            value=point.value,
        )
        for point in entry_points(group=group)
    )
