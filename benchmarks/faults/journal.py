"""What a process writes down while it may be killed, and what is read of it."""

import json
import time
from pathlib import Path
from typing import Any


class Journal:
    """Appends one line for each event, so that whoever is killed leaves all but the last one whole."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def note(self, kind: str, **fields: Any) -> None:
        """Write an event down, with the time by the clock that all processes of a machine share."""
        self._file.write(json.dumps({"kind": kind, "at_s": time.monotonic(), **fields}) + "\n")


class JournalReader:
    """Reads a journal as it grows, each line once: who watches must not take time from who trains."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = 0
        self._events: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """Return all events so far, without a last line that is not whole."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._start)
                content = file.read()
        except FileNotFoundError:
            return self._events
        whole = content[: content.rfind(b"\n") + 1]
        self._start += len(whole)
        self._events += [json.loads(line) for line in whole.splitlines()]
        return self._events
