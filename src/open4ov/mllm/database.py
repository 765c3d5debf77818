"""How the SQLite files of a run are opened: several threads and processes may write, and `kill -9` loses nothing.

In WAL mode a committed transaction is in the file's log before the call returns. The death of a process loses none of
them; loss of power may lose the last ones, and never damages the file.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from open4ov.errors import UserError

WAIT = 60.0
"""Seconds for which a writer waits for another process"""


def connect(path: Path | None, schema: str, version: int) -> sqlite3.Connection:
    """The file at `path`, made with `schema` if it is new; None is a database in memory. Transactions are the caller's,
    and so is a lock around its use by threads.

    Raises UserError for a file that is no such database, is damaged, or of another version.
    """
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path or ":memory:", timeout=WAIT, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found == 0:
            for statement in schema.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={version}")
        connection.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        connection.close()
        if "full" in str(error):
            raise
        raise UserError(f"{path}: not usable ({error}); move it away to begin a new one") from None
    if found not in (0, version):
        connection.close()
        raise UserError(f"{path}: of another version of open4ov; move it away to begin a new one")
    return connection
