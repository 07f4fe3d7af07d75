"""The embedded tracking database: made, migrated, moved along with its workspace, copied for those who only look."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines import settings
from pipelines.errors import OutsideSystemError
from pipelines.files import move_into_place, remove
from pipelines.ledger import exclusive
from pipelines.registry.client import translated
from pipelines.workspace import Workspace

LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where MLflow stores absolute paths."""
LOCK_SECONDS = 20.0
OPENING = "to open mlflow.db"


def tracking_uri(workspace: Workspace) -> str:
    """``MLFLOW_TRACKING_URI``, by default the workspace's own SQLite database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _embedded_uri(workspace)


def is_embedded(workspace: Workspace) -> bool:
    return tracking_uri(workspace) == _embedded_uri(workspace)


@translated(OPENING)
def ensure_database(workspace: Workspace) -> None:
    """Create or migrate the embedded database, once: processes that meet a missing one crash each other."""
    with exclusive(workspace, "tracking"):
        if workspace.tracking_database.exists():
            _migrate(workspace)
        else:
            draft = workspace.tracking_database.with_name("mlflow.db.draft")  # swept under this lock only
            remove(draft)
            _open_store(f"sqlite:///{draft}", workspace.tracking_artifacts)
            move_into_place(draft, workspace.tracking_database)


@translated(OPENING)
def rebase(workspace: Workspace) -> bool:
    """Let the embedded database point into this workspace; True when it had been moved or copied.

    The artifact location of MLflow's default experiment says where the workspace was before.
    """
    with exclusive(workspace, "tracking"), contextlib.closing(_database(workspace)) as database:
        return _rebase(database, str(workspace.tracking_artifacts))


def let_go(uri: str) -> None:
    """MLflow keeps the store and the engine of every address it ever opened: of a copy that goes, some 2.5 MiB."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Models
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Runs
    from mlflow.tracking._model_registry.utils import _get_store_registry
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    for kind in (Models, Runs):
        engine = kind._engine_map.pop(uri, None)
        if engine is not None:
            engine.dispose()
    for kept in (_get_store_registry(), _tracking_store_registry):
        kept._get_store_with_resolved_uri.cache_clear()


@contextlib.contextmanager
def private_copy(workspace: Workspace) -> Iterator[Path]:
    """The database as it stands, where a running retrain and a read-only workspace are no obstacle."""
    with tempfile.TemporaryDirectory(prefix="lclsc-registry-") as folder:
        copy = Path(folder) / workspace.tracking_database.name
        with (
            translated(OPENING),
            contextlib.closing(open_read_only(workspace.tracking_database)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            _rebase(target, str(workspace.tracking_artifacts))
        yield copy


def glance(workspace: Workspace, name: str, tag: str, value: str) -> dict[str, Any] | None:
    """A version with this tag as the embedded database holds it; None where the file does not say.

    Without MLflow, whose import takes longer than all else that a retrain with nothing to do does.
    """
    query = (
        "SELECT version, run_id, source, creation_time FROM model_versions"
        " JOIN model_version_tags USING (name, version)"
        " WHERE name = ? AND key = ? AND value = ? AND current_stage != 'Deleted_Internal' ORDER BY version"
    )
    of_version = (
        "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?",
        "SELECT alias, '' FROM registered_model_aliases WHERE name = ? AND version = ?",
    )
    try:
        with contextlib.closing(open_read_only(workspace.tracking_database)) as database:
            for number, run_id, source, created in database.execute(query, (name, tag, value)):
                tags, aliases = (dict(database.execute(ask, (name, number)).fetchall()) for ask in of_version)
                return {
                    "version": str(number),
                    "run_id": str(run_id),
                    "model_id": str(source).removeprefix("models:/"),
                    "tags": tags,
                    "aliases": tuple(sorted(aliases)),
                    "created_at_ms": int(created),
                }
    except sqlite3.Error:
        return None
    return None


def _embedded_uri(workspace: Workspace) -> str:
    return f"sqlite:///{workspace.tracking_database}"


def _open_store(uri: str, artifacts: Path) -> None:
    """Opening a store makes its tables and its default experiment."""
    settings.apply()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for chatty in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    SqlAlchemyStore(uri, str(artifacts))._dispose_engine()


def _migrate(workspace: Workspace) -> None:
    """Bring an older schema up to date, with a copy beside it: migrations are not transactional.

    Asked before MLflow opens the file, because it migrates some old databases without a word.
    """
    if is_current(workspace):
        return
    backup = workspace.tracking_database.with_name(f"mlflow.db.{time.strftime('%Y%m%dT%H%M%S')}")
    shutil.copy2(workspace.tracking_database, backup)
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", _embedded_uri(workspace)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OutsideSystemError(
            "mlflow_migration",
            f"MLflow could not migrate mlflow.db: {done.stderr[-300:]}",
            f"The database before the attempt is {backup.name}; a newer lclsc may have written it.",
        )


@translated(OPENING)
def is_current(workspace: Workspace) -> bool:
    """Has the embedded database the schema that the installed MLflow writes?"""
    return _schema_revision(workspace) == _wanted_revision()


def _schema_revision(workspace: Workspace) -> str | None:
    with contextlib.closing(_database(workspace)) as database:
        versioned = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
        row = versioned and database.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


def _wanted_revision() -> str:
    from alembic.script import ScriptDirectory
    from mlflow.store import db_migrations

    return str(ScriptDirectory(str(Path(db_migrations.__file__).parent)).get_current_head())


def _database(workspace: Workspace) -> sqlite3.Connection:
    return sqlite3.connect(workspace.tracking_database, timeout=LOCK_SECONDS)


def open_read_only(path: Path) -> sqlite3.Connection:
    """Beside a writer; on a medium that cannot be written to, where SQLite may not lock, as it stands."""
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    mode = "mode=ro" if writable else "mode=ro&immutable=1"
    return sqlite3.connect(f"file:{urllib.parse.quote(str(path))}?{mode}", uri=True, timeout=LOCK_SECONDS)


def _rebase(database: sqlite3.Connection, new: str) -> bool:
    old = _recorded_artifacts(database)
    if old is None or old == new:
        return False
    with database:
        for table, column in LOCATIONS:
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?)"  # noqa: S608 (names from LOCATIONS)
                f" WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
            )
    return True


def _recorded_artifacts(database: sqlite3.Connection) -> str | None:
    """``<root>/mlartifacts`` as it was when the database was last opened here."""
    row = database.execute("SELECT artifact_location FROM experiments WHERE experiment_id = 0").fetchone()
    suffix = f"/{Workspace(Path('/')).tracking_artifacts.name}/0"
    return row[0][: -len("/0")] if row and row[0].endswith(suffix) else None
