"""Where things are kept: ledger, databases, DVC remotes, Prefect's server."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx

from pipelines import ledger, object_stores, versioning
from pipelines.doctor.finding import Finding
from pipelines.errors import LclscError
from pipelines.evidence import withdrawals
from pipelines.evidence.audit import head
from pipelines.evidence.check import DAMAGE
from pipelines.evidence.ledger_events import entries_of
from pipelines.object_stores import is_cached
from pipelines.redaction import redact
from pipelines.workspace import Workspace

MLFLOW_SERVER = "MLflow server"
ANSWER_SECONDS = 10.0


def findings(workspace: Workspace) -> Iterator[Finding]:
    yield _ledger(workspace)
    yield _registry(workspace)
    yield from _prefect(workspace)
    yield _analytics(workspace)
    yield _cache(workspace)
    yield from _remotes(workspace)


def _ledger(workspace: Workspace) -> Finding:
    problems = ledger.verify(workspace.ledger)
    return Finding(
        "ledger",
        not problems,
        problems[0] if problems else "every line follows from the one before",
        "A torn last line is mended by the next event; restore any other with git.",
    )


def _registry(workspace: Workspace) -> Finding:
    from pipelines.registry import database, loss

    name = "MLflow database"
    if not database.is_embedded(workspace):
        return _answers(MLFLOW_SERVER, database.tracking_uri(workspace))
    if not workspace.tracking_database.exists():
        if known := loss.noted(workspace):
            lost = loss.error(known)
            return Finding(name, False, lost.cause, lost.remedy)
        return Finding(name, True, "made by the first retrain")
    damage = _damage(workspace.tracking_database)
    if damage:
        return Finding(name, False, f"damaged: {damage}", "Restore mlflow.db from a backup; see docs/recovery.md.")

    def mend() -> str:
        database.ensure_database(workspace)
        return "migrated; the one before lies beside it"

    current = database.is_current(workspace)
    found = "at this version's schema" if current else "has the schema of another version"
    return Finding(name, current, found, "Run `lclsc doctor --repair`, or the next retrain migrates it.", mend)


def _prefect(workspace: Workspace) -> Iterator[Finding]:
    if server := os.environ.get("PREFECT_API_URL"):
        yield _answers("Prefect server", server)
    path = workspace.state / "prefect" / "prefect.db"
    damage = _damage(path) if path.exists() else ""
    found = f"damaged: {damage}" if damage else "whole" if path.exists() else "none yet"
    remedy = "It is history only: stop the server and move .state/prefect/prefect.db away; a start makes a new one."
    yield Finding("Prefect database", not damage, found, remedy)


def _answers(name: str, server: str) -> Finding:
    """Does a server say that it is well? Both of ours do so without a password."""
    shown = redact(server)
    if not server.startswith("http"):
        return Finding(name, True, f"{shown}: not asked")
    try:
        httpx.get(f"{server.rstrip('/')}/health", timeout=ANSWER_SECONDS).raise_for_status()
    except httpx.HTTPError as error:
        why = f"{shown} does not answer ({type(error).__name__})"
        return Finding(name, False, why, "See that it runs, and that its address is right.")
    return Finding(name, True, f"{shown} answers")


def _damage(path: Path) -> str:
    """What SQLite says about its own file; empty when all is well."""
    from pipelines.registry import database

    try:
        with contextlib.closing(database.open_read_only(path)) as opened:
            said = str(opened.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if said == "ok" else said


def _analytics(workspace: Workspace) -> Finding:
    """DVC asks its own configuration file, and not the environment, whether to look for newer versions."""
    wrong = [
        option for option in ("analytics", "check_update") if versioning.core_setting(workspace, option) != "false"
    ]

    def mend() -> str:
        for option in wrong:
            versioning.dvc(workspace, "config", f"core.{option}", "false")
        return f"core.{' and core.'.join(wrong)} set to false; commit .dvc/config"

    found = f"core.{', core.'.join(wrong)} not off" if wrong else "off"
    return Finding("DVC telemetry", not wrong, found, "Run `lclsc doctor --repair`.", mend)


def _cache(workspace: Workspace) -> Finding:
    """Whether each object of the last commit is there, not what is in it: an audit hashes."""
    name = "DVC cache"
    try:
        lost = _not_cached(workspace)
    except DAMAGE as error:
        return Finding(name, False, str(error), "Mend what is named, or ask `lclsc audit HEAD` for all of it.")

    def mend() -> str:
        versioning.dvc(workspace, "fetch")
        left = sum(_not_cached(workspace).values())
        return f"fetched; {left} are in no remote" if left else "fetched from the remotes"

    told = " and ".join(f"{count} objects of {remote}" for remote, count in lost.items())
    found = f"{told} missing" if lost else "holds what was fetched of the last commit"
    return Finding(name, not lost, found, "Run `lclsc doctor --repair`, or `dvc fetch`.", mend)


def _not_cached(workspace: Workspace) -> dict[str, int]:
    """Remote -> objects of the last commit that are not here; of a remote nothing of which is here none is missed.

    A clone need not have the right to the identified videos.
    """
    gone = withdrawals.of(entries_of(workspace)).objects
    wanted: dict[str, dict[str, bool]] = {}
    for stored in head(workspace).commit.objects:
        if stored.md5 not in gone:
            wanted.setdefault(stored.remote, {})[stored.md5] = is_cached(workspace, stored.md5)
    return {
        remote: lost
        for remote, here in sorted(wanted.items())
        if any(here.values()) and (lost := [*here.values()].count(False))
    }


def _remotes(workspace: Workspace) -> Iterator[Finding]:
    if not (workspace.root / ".dvc" / "config").exists():
        yield Finding("DVC remotes", False, "no .dvc/config", "Restore it: `git checkout -- .dvc`.")
        return
    stores = [object_stores.remote(workspace, name) for name in versioning.remotes(workspace)]
    absent = [store.name for store in stores if store.absent and not versioning.lies_inside(workspace, store.name)]
    try:
        for store in stores:
            if not store.absent:
                store.require()  # DVC takes a remote that does not answer for an empty one
        missing = versioning.missing_objects(workspace)
    except LclscError as error:
        yield Finding("DVC remotes", False, error.cause, error.remedy)
        return
    except OSError as error:
        yield Finding("DVC remotes", False, str(error), "Check the remote's address and rights in .dvc/config.")
        return
    if missing and absent:
        found = f"{len(missing)} objects missing; the folder of {' and of '.join(absent)} is not there"
        remedy = "Mount it if it lies on another disk; if it is lost, make the folder and run `lclsc doctor --repair`."
        yield Finding("DVC remotes", False, found, remedy)  # a push would fill the disk it is to be mounted on
        return
    found = f"{len(missing)} objects missing" if missing else "hold every object"
    remedy = "Run `lclsc doctor --repair`, which pushes them again."
    yield Finding("DVC remotes", not missing, found, remedy, lambda: _push(workspace))


def _push(workspace: Workspace) -> str:
    """Without DVC's notes of what it pushed before: they say all is there."""
    shutil.rmtree(workspace.state / "dvc-site", ignore_errors=True)
    versioning.push_objects(workspace)
    return "pushed again"
