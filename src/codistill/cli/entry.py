"""From the words of a command line to a verb, and from what went wrong to an exit code."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence

from codistill.cli.usage import UsageError
from codistill.errors import CodistillError, RecipeError
from codistill.version import __version__

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

VERBS = {
    "demo": "Train every arm of the demo on this machine and compare them.",
    "train": "Train one recipe, every field of which is an option.",
    "compare": "Tune, train and compare several methods on one recipe.",
    "reproduce": "Show how a claim of the papers came out here, or run it anew.",
    "recipes": "List the recipes, or show one.",
    "report": "Write the report of a results folder anew.",
    "peers": "List the peers of a running or finished run.",
    "watch": "Show live how the peers of a run are getting on.",
    "doctor": "Check all that lies in a store, and delete what nobody needs.",
    "export": "Write the weights of a peer to a safetensors file.",
    "serve": "Answer students' batches with the predictions of a store's peers.",
    "plan": "Say what each way of training several peers costs, and which to choose.",
}
"""Verb, which is the name of its module too -> what it does."""

_EXTRA = ("rich", "tyro")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; results go to standard output, all else to standard error.

    Args:
        argv: The words after the program's name; those of this process if not given.

    Returns:
        The exit code: 0 done, 1 failed, 2 called the wrong way, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"codistill {__version__}")  # noqa: T201 - printing is what a command line is for
        return DONE
    if any(importlib.util.find_spec(module) is None for module in _EXTRA):
        return _complain(
            "The command line needs packages of an extra. Run: pip install 'codistill[cli]'", MISUSED
        )
    if not words or words[0] in ("-h", "--help"):
        print(_usage(), file=sys.stdout if words else sys.stderr)
        return DONE if words else MISUSED
    if words[0] not in VERBS:
        return _complain(f"verb must be one of {', '.join(VERBS)}, got {words[0]!r}.", MISUSED)
    return _run(words[0], words[1:])


def _run(verb: str, arguments: list[str]) -> int:
    try:
        # A verb that has something to say by it returns its exit code.
        code: int | None = importlib.import_module(f"codistill.cli.{verb}").run(arguments)
    except SystemExit as e:
        # The parser ends so, after --help and after what it could not parse.
        return e.code if isinstance(e.code, int) else FAILED
    except (RecipeError, UsageError) as e:
        return _complain(str(e), MISUSED)
    except (CodistillError, OSError, ValueError) as e:
        return _complain(str(e), FAILED)
    except KeyboardInterrupt:
        return _complain("Interrupted. What has finished stays; --resume goes on from it.", INTERRUPTED)
    return DONE if code is None else code


def _complain(message: str, code: int) -> int:
    print(f"codistill: {message}", file=sys.stderr)  # noqa: T201 - as above
    return code


def _usage() -> str:
    width = max(map(len, VERBS))
    return "\n".join(
        (
            "usage: codistill VERB [OPTIONS]",
            "",
            "Models that train apart and teach one another.",
            "",
            *(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items()),
            "",
            "codistill VERB --help shows the options of a verb, codistill --version the version.",
        )
    )
