"""The codistiller's own file in a checkpoint of the Trainer."""

import json
from pathlib import Path
from typing import Final

from codistill.caller import warn_caller
from codistill.codistiller import Codistiller

NAME: Final = "codistiller.json"
_MAX_BYTES = 64 * 2**20


def save(codistiller: Codistiller, folder: Path) -> None:
    """Write the state into a checkpoint's folder; a reader sees all of it or nothing.

    Args:
        codistiller: Whose state.
        folder: The checkpoint's, which exists.
    """
    path = folder / NAME
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(codistiller.state_dict(), indent=1, sort_keys=True))
    unfinished.replace(path)


def load(codistiller: Codistiller, folder: Path) -> None:
    """Go on where a checkpoint was saved; without the file, begin anew and say so.

    **Ranks**: all, each reads the file for itself.

    Args:
        codistiller: Whose state; before its first loss.
        folder: The checkpoint's.

    Raises:
        ValueError: If the file cannot be read as a state of this peer; nothing has changed then.
    """
    path = folder / NAME
    if not path.exists():
        warn_caller(
            f"{folder} holds no {NAME}: the weights are resumed, but this peer starts at step 0 of its run. "
            "Resume from a checkpoint that a CodistillationTrainer has saved, or go on if there is none.",
        )
        return
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError(f"it must have at most {_MAX_BYTES} bytes.")
        state = json.loads(content)
        if not isinstance(state, dict):
            raise ValueError(f"it must be a JSON object, got {type(state).__name__}.")
        codistiller.load_state_dict(state)
    except ValueError as error:
        raise ValueError(
            f"{path} must be what this peer saved there, and cannot be used: {error} "
            "Resume from another checkpoint."
        ) from error
