"""A store: one SQLite file on a disk that all peers see."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from codistill.errors import KeyMissingError, StoreError
from codistill.stores import Store


class SqliteStore(Store):
    """Keeps each value in a row of ``sample:///path/of/a/file``; a transaction is what makes it whole."""

    def __init__(self, url: str) -> None:
        self._file = url.partition("://")[2]

    def describe(self) -> str:
        return f"sample://{self._file}"

    @contextmanager
    def _transaction(self, key: str) -> Iterator[sqlite3.Connection]:
        # A connection belongs to one thread, and threads call at the same time.
        try:
            with closing(sqlite3.connect(self._file, timeout=60)) as connection, connection:
                connection.execute("CREATE TABLE IF NOT EXISTS store (key TEXT PRIMARY KEY, value BLOB)")
                yield connection
        except sqlite3.Error as e:
            raise StoreError(f"{self.describe()} did not do what was asked: {e}.", key=key) from e

    def _read(self, key: str, *, max_bytes: int, start: int) -> bytes:
        with self._transaction(key) as connection:
            query = "SELECT substr(value, ?, ?) FROM store WHERE key = ?"
            row = connection.execute(query, (start + 1, max_bytes, key)).fetchone()
        if row is None:
            raise KeyMissingError(f"Nothing is stored under {key!r} in {self.describe()}.", key=key)
        return bytes(row[0] or b"")  # of an empty value SQLite's part is NULL

    def _write(self, key: str, content: bytes | memoryview | Path) -> None:
        value = content.read_bytes() if isinstance(content, Path) else content
        with self._transaction(key) as connection:
            connection.execute("INSERT OR REPLACE INTO store VALUES (?, ?)", (key, value))

    def _create(self, key: str, content: bytes) -> bool:
        with self._transaction(key) as connection:
            done = connection.execute("INSERT OR IGNORE INTO store VALUES (?, ?)", (key, content))
            return done.rowcount == 1

    def _delete(self, key: str) -> None:
        with self._transaction(key) as connection:
            connection.execute("DELETE FROM store WHERE key = ?", (key,))

    def _list_names(self, prefix: str, *, limit: int) -> list[str]:
        folder = f"{prefix}/" if prefix else ""
        with self._transaction(prefix) as connection:
            keys = [key for (key,) in connection.execute("SELECT key FROM store")]
        return sorted({key[len(folder) :].split("/")[0] for key in keys if key.startswith(folder)})[:limit]
