"""Call a function with what the command line says: its signature and docstring are options and help."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import tyro

from codistill.cli.usage import UsageError

T = TypeVar("T")


def call(function: Callable[..., T], arguments: Sequence[str], *, verb: str, default: Any = None) -> T:
    """Parse, then call.

    Args:
        function: What to call: a function, or a dataclass to build.
        arguments: The words after the verb.
        verb: The verb, for the help.
        default: Values of the dataclass where the command line has none.

    Raises:
        SystemExit: With code 0 after ``--help``, with 2 after words that cannot be parsed.
    """
    prog = f"codistill {verb}"
    if default is None:
        return tyro.cli(function, args=arguments, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
    return tyro.cli(function, args=arguments, prog=prog, default=default)


def if_exists(*, overwrite: bool, resume: bool) -> Literal["refuse", "overwrite", "resume"]:
    """Return what is to be done about an earlier run.

    Raises:
        UsageError: If both are asked for.
    """
    if overwrite and resume:
        raise UsageError("--overwrite and --resume must not be given together, got both. Choose one.")
    return "overwrite" if overwrite else "resume" if resume else "refuse"
