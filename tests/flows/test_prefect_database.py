"""What Prefect's migrations make is what a new workspace gets at once.

Run    python tests/flows/test_prefect_database.py    writes flows/prefect_database.sql anew, after an update of Prefect
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from flows import prefect_database


def migrated(home: Path) -> str:
    """All of a database that Prefect has made by its migrations, as SQL."""
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    subprocess.run(command, env=kept | {"PREFECT_HOME": str(home)}, capture_output=True, check=True)
    return f"{prefect_database.first_line()}\n{_dump(home)}"


def _dump(home: Path) -> str:
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        return "\n".join(database.iterdump()) + "\n"


def _statements(script: str) -> list[list[str]]:
    """Without the order of a table's constraints and indices, which differs from one migration to the next."""
    return sorted(sorted(line.rstrip(", ") for line in one.splitlines()) for one in script.split(";\n"))


@pytest.fixture(autouse=True)
def _nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in prefect_database.ELSEWHERE:
        monkeypatch.delenv(name, raising=False)


def test_a_new_workspace_gets_what_the_migrations_make(tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    made = migrated(tmp_path / "slow")
    assert _statements(made) == _statements(prefect_database.SCHEMA.read_text())
    prefect_database.ensure(tmp_path)
    assert _statements(_dump(tmp_path)) == _statements(made.partition("\n")[2])


def test_a_database_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_bytes(b"somebody's")
    prefect_database.ensure(tmp_path)
    assert (tmp_path / "prefect.db").read_bytes() == b"somebody's"


@pytest.mark.parametrize("name", prefect_database.ELSEWHERE)
def test_none_is_made_where_history_is_kept_elsewhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "somewhere")
    prefect_database.ensure(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_prefect_makes_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "3.0.0")
    prefect_database.ensure(tmp_path)
    assert list(tmp_path.iterdir()) == []


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        prefect_database.SCHEMA.write_text(migrated(Path(folder)))
