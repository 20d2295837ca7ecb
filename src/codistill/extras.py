"""Import what only an extra of this package brings, or say how to install it."""

import importlib
import importlib.util
from types import ModuleType

from codistill.errors import ExtraMissingError


def require(module: str, extra: str) -> ModuleType:
    """Import and return an optional dependency.

    Args:
        module: Dotted name of the module, such as ``"sklearn.datasets"``.
        extra: The extra of codistill that brings it, such as ``"lab"``.

    Raises:
        ExtraMissingError: If the package that holds ``module`` is not installed. An error inside an
            installed package is passed on as it is.

    Example:
        >>> require("json", "lab").dumps([1])
        '[1]'
    """
    check_installed(module, extra)
    return importlib.import_module(module)


def check_installed(module: str, extra: str) -> None:
    """Check that an optional dependency is installed, without importing it.

    Args:
        module: As for `require`.
        extra: As for `require`.

    Raises:
        ExtraMissingError: If the package that holds ``module`` is not installed.
    """
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise ExtraMissingError(
            f"{package} must be installed for this, and it is not. Run: pip install 'codistill[{extra}]' "
            f"(in a clone: pip install '.[{extra}]')"
        )
