"""A text as numbers in a file that may be larger than memory, and its windows."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from codistill.lab.tasks.language.vocabulary import Tokens
from codistill.lab.tasks.language.windows import count_windows
from codistill.lab.tasks.samples import Inputs, Samples

_STORED = np.dtype("<u2")
MOST_CLASSES = 1 << 16
"""Most different tokens that such a file can hold."""


@final
class TokenFile(Samples):
    """The windows of `windows`, read from a file as they are asked for.

    Args:
        path: As `write_tokens` wrote it.
        positions: Predictions a window, >= 1.

    Raises:
        ValueError: If the text does not fill one window.
    """

    def __init__(self, path: Path, *, positions: int) -> None:
        tokens = path.stat().st_size // _STORED.itemsize
        self._count = count_windows(tokens, positions=positions)
        self._tokens = np.memmap(path, dtype=_STORED, mode="r", shape=(tokens,))
        self._positions = positions

    @override
    def __len__(self) -> int:
        return self._count

    @override
    def batch(self, rows: Tensor) -> tuple[Inputs, Tensor]:
        first = rows.cpu().numpy()[:, None] * self._positions
        some = torch.from_numpy(self._tokens[first + np.arange(self._positions + 1)].astype(np.int64))
        return some[:, :-1], some[:, 1:]


def write_tokens(path: Path, parts: Iterable[Tokens]) -> None:
    """Write a text as numbers, part by part; a file that is there is whole and stays as it is.

    Several processes may do so at once: readers see all or nothing.

    Args:
        path: Where to.
        parts: The text, each int32 [tokens], all below `MOST_CLASSES`; not read if the file is there.

    Raises:
        OSError: If it cannot be written.
    """
    if path.exists():
        return
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part.astype(_STORED).tobytes())
        Path(partial).replace(path)
    except BaseException as e:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
        if isinstance(e, OSError):
            raise OSError(
                f"The cache folder must be writable, as this text may not fit in memory; {path} could not be "
                f"written: {e}. Set XDG_CACHE_HOME to a folder with room for two bytes a token."
            ) from e
        raise
