"""Prefect's database of a new workspace, at once: Prefect's own migrations take ten seconds of a processor.

Reads   prefect_database.sql   the schema after all migrations of the Prefect version that its first line names
Writes  prefect.db             in Prefect's home, unless one is there

Under any other version Prefect makes the database itself.
"""

from __future__ import annotations

import importlib.metadata
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from pipelines.files import write_once

SCHEMA = Path(__file__).with_suffix(".sql")
ELSEWHERE = ("PREFECT_API_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
"""Any of them set, history is kept by somebody else's server or in somebody else's database."""


def ensure(home: Path) -> None:
    """A database in Prefect's ``home``: the one that is there, or a new one; none where it would not be used."""
    if any(home.glob("prefect.db*")) or any(os.environ.get(name) for name in ELSEWHERE):
        return  # also beside a journal whose database was deleted: SQLite would play it into the new one
    script = SCHEMA.read_text()
    if script.startswith(f"{first_line()}\n") and hasattr(sqlite3.Connection, "serialize"):  # not in every Python
        with closing(sqlite3.connect(":memory:")) as database:
            database.executescript(script)
            write_once(home / "prefect.db", database.serialize())


def first_line() -> str:
    return f"-- prefect {importlib.metadata.version('prefect')}"
