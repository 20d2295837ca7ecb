"""Where data sets are looked for."""

import os
from pathlib import Path


def data_root(given: str | Path | None = None) -> Path:
    """Return the folder of the data sets' folders: ``given``, else ``$CODISTILL_DATA``, else ``data``.

    Example:
        >>> data_root("/elsewhere").as_posix()
        '/elsewhere'
    """
    return Path(given if given is not None else os.environ.get("CODISTILL_DATA") or "data")
