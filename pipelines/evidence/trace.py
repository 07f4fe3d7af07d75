"""Trace: from a patient, video, frame or model to everything it touched, and back.

Reads   ledger.jsonl, git, dvc.lock and the tables of every registered version's commit
Writes  .state/trace.sqlite, an index: derived, made again when it is lost, brought up to date when asked

What a commit says never changes, so each registered version is read into the index once.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipelines import versioning
from pipelines.alias_history import last_words
from pipelines.errors import OutsideSystemError, WrongUseError
from pipelines.evidence import withdrawals
from pipelines.evidence.commit import TABLES, Commit, with_data
from pipelines.evidence.ledger_events import entries_of
from pipelines.ledger import Entry
from pipelines.workspace import Workspace

KINDS = ("patient", "video", "frame", "model")
MIN_PREFIX = 8
INDEX = "trace.sqlite"

FORMAT = 2  # of the index, and of the rules that fill it: one of another number is made again
_TABLES = {
    "sources": "(name TEXT PRIMARY KEY)",
    "videos": "(video_id TEXT PRIMARY KEY, patient_id TEXT, label TEXT, site TEXT, domain TEXT, split TEXT,"
    " present INTEGER) WITHOUT ROWID",
    "versions": "(version TEXT PRIMARY KEY, commit_id TEXT, lineage_sha256 TEXT, data_version TEXT)",
    "uses": "(video_id TEXT, version TEXT, role TEXT, shard TEXT, frames INTEGER, PRIMARY KEY (version, video_id))"
    " WITHOUT ROWID",
    "aliases": "(alias TEXT PRIMARY KEY, version TEXT)",
    "withdrawn": "(patient_id TEXT PRIMARY KEY)",
}
_INDEXES = ("videos_by_patient ON videos (patient_id)", "uses_by_video ON uses (video_id)")
_KNOWN_VIDEO = "INSERT OR IGNORE INTO videos VALUES (?, ?, ?, ?, ?, ?, 0)"
_PRESENT_VIDEO = "INSERT OR REPLACE INTO videos VALUES (?, ?, ?, ?, ?, ?, 1)"
_VERSIONS_OF = """
SELECT versions.*, json_group_array(DISTINCT uses.role) AS roles,
    (SELECT json_group_array(alias) FROM aliases WHERE aliases.version = versions.version) AS aliases
FROM uses JOIN versions USING (version) WHERE video_id IN (SELECT value FROM json_each(?))
GROUP BY version ORDER BY CAST(version AS INTEGER)
"""
_VIDEOS_OF = """
SELECT videos.*, uses.role, uses.shard, uses.frames FROM uses CROSS JOIN videos USING (video_id)
WHERE version = ? ORDER BY uses.video_id
"""


def run(workspace: Workspace, kind: str, name: str) -> dict[str, Any]:
    """``trace/1``: what ``name`` is, the videos behind it, and the versions that used them, with their aliases."""
    if not name:
        raise WrongUseError(
            "no_name", f"Which {kind}? None was named.", "Give its id; of a pseudonym or a hash, 8 characters do."
        )
    try:
        answer = _answer(workspace, kind, name)
    except sqlite3.OperationalError as error:  # held by another one for too long, or a disk that is full
        raise OutsideSystemError(
            "index_busy", f"The index of the trace cannot be used: {error}.", "Ask again in a minute.", transient=True
        ) from error
    except sqlite3.DatabaseError:  # a damaged file
        (workspace.state / INDEX).unlink()
        answer = _answer(workspace, kind, name)
    return {"schema": "trace/1", "kind": kind} | answer


def _answer(workspace: Workspace, kind: str, name: str) -> dict[str, Any]:
    with contextlib.closing(_opened(workspace.state / INDEX)) as database:
        _bring_up_to_date(workspace, database)
        return _ANSWERS[kind](database, name)


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=20)
    database.row_factory = sqlite3.Row
    if _format(database) != FORMAT:
        with database:
            database.execute("BEGIN IMMEDIATE")
            if _format(database) != FORMAT:  # still, now that nobody else can be at it
                _make_tables(database)
    return database


def _format(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _make_tables(database: sqlite3.Connection) -> None:
    for table, columns in _TABLES.items():
        database.execute(f"DROP TABLE IF EXISTS {table}")
        database.execute(f"CREATE TABLE {table} {columns}")
    for made in _INDEXES:
        database.execute(f"CREATE INDEX {made}")
    database.execute(f"PRAGMA user_version = {FORMAT}")


# --- filling ---------------------------------------------------------------------------------------


def _bring_up_to_date(workspace: Workspace, database: sqlite3.Connection) -> None:
    """One pass over what is new in the ledger and in git; nothing is read where nothing is new."""
    state = f"state {versioning.find_commit(workspace, 'HEAD')} {_look(workspace.ledger)}"
    known = {row["name"] for row in database.execute("SELECT name FROM sources")}
    if state in known:
        return
    entries = entries_of(workspace)
    with database:
        for entry in entries:
            source = f"event {entry.seq} {entry.prev}"
            if entry.event in _READERS and source not in known:
                _READERS[entry.event](workspace, database, entry)
                database.execute("INSERT INTO sources VALUES (?)", (source,))
        _read_today(workspace, database, entries)
        database.execute("DELETE FROM sources WHERE name LIKE 'state %'")
        database.execute("INSERT INTO sources VALUES (?)", (state,))


def _look(path: Path) -> str:
    stat = path.stat() if path.exists() else None
    return f"{stat.st_size} {stat.st_mtime_ns}" if stat else "no ledger"


def _read_registered(workspace: Workspace, database: sqlite3.Connection, entry: Entry) -> None:
    commit, version = Commit(workspace, entry.data["commit"]), str(entry.data["version"])
    values = (version, commit.sha, entry.data["lineage_sha256"], commit.data_version)
    database.execute("INSERT OR REPLACE INTO versions VALUES (?, ?, ?, ?)", values)
    _add_videos(database, commit, _KNOWN_VIDEO)
    for table in TABLES:
        _add_uses(database, version, _rows_used(commit, table))


def _read_evaluated(workspace: Workspace, database: sqlite3.Connection, entry: Entry) -> None:
    """A later evaluation shows a version patients it had not seen."""
    commit = with_data(workspace, entry.data["data_version"])
    if commit is not None:
        _add_videos(database, commit, _KNOWN_VIDEO)
        _add_uses(database, entry.subject.removeprefix("version "), _rows_used(commit, "data/test.csv"))


_READERS = {"registered": _read_registered, "evaluated": _read_evaluated}


def _read_today(workspace: Workspace, database: sqlite3.Connection, entries: list[Entry]) -> None:
    """What changes: the manifest, the aliases, who withdrew. Videos that left the manifest stay known."""
    head = versioning.find_commit(workspace, "HEAD")
    database.execute("UPDATE videos SET present = 0")
    if head is not None:
        _add_videos(database, Commit(workspace, head), _PRESENT_VIDEO)
    for table in ("aliases", "withdrawn"):
        database.execute(f"DELETE FROM {table}")  # noqa: S608
    database.executemany("INSERT INTO aliases VALUES (?, ?)", last_words(entries).items())
    patients = ((patient,) for patient in withdrawals.of(entries).patients)
    database.executemany("INSERT INTO withdrawn VALUES (?)", patients)


def _rows_used(commit: Commit, table: str) -> list[dict[str, Any]]:
    """Rows of a table of the commit. Where it is lost, all videos that may have stood in it: better one too many.

    StoreUnreachableError while its remote cannot be asked: what is not known must not be remembered as unused.
    """
    rows = commit.table(table)
    if rows is not None:
        return [row | {"frames": int(row["frames"])} for row in rows]
    if table not in commit.outs:
        return []
    commit.ask_remote(table)
    return [
        {"video_id": video.video_id, "split": split, "shard": None, "frames": None}
        for video in commit.videos.values()
        if ((split := commit.splits.get(video.patient_id)) == "test") == (table == "data/test.csv")
    ]


def _add_videos(database: sqlite3.Connection, commit: Commit, statement: str) -> None:
    rows = (
        (v.video_id, v.patient_id, v.label, v.site, v.domain, commit.splits.get(v.patient_id))
        for v in commit.videos.values()
    )
    database.executemany(statement, rows)


def _add_uses(database: sqlite3.Connection, version: str, rows: Iterable[dict[str, Any]]) -> None:
    values = ((row["video_id"], version, row["split"], row["shard"], row["frames"]) for row in rows)
    database.executemany("INSERT OR IGNORE INTO uses VALUES (?, ?, ?, ?, ?)", values)


# --- answers ---------------------------------------------------------------------------------------


def _patient(database: sqlite3.Connection, name: str) -> dict[str, Any]:
    patient_id = _unique(database, "patient_id", name)
    videos = _rows(database, "SELECT * FROM videos WHERE patient_id = ? ORDER BY video_id", patient_id)
    return {"id": patient_id} | _touched(database, videos)


def _video(database: sqlite3.Connection, name: str) -> dict[str, Any]:
    video_id = _unique(database, "video_id", name)
    videos = _rows(database, "SELECT * FROM videos WHERE video_id = ?", video_id)
    return {"id": video_id} | _touched(database, videos)


def _frame(database: sqlite3.Connection, name: str) -> dict[str, Any]:
    """``<video_id>:<frame_index>``."""
    video, _, number = name.partition(":")
    if not number.isdigit():
        raise WrongUseError("no_frame", f"{name} names no frame.", "Write <video_id>:<frame_index>, as in 3fa08b12:17.")
    answer = _video(database, video)
    shards = _rows(
        database,
        "SELECT DISTINCT shard, frames FROM uses WHERE video_id = ? AND shard NOT NULL ORDER BY shard",
        answer["id"],
    )
    if shards and not any(int(number) < row["frames"] for row in shards):
        raise WrongUseError("no_frame", f"The video has {shards[0]['frames']} frames.", "Frames are counted from 0.")
    return answer | {"id": f"{answer['id']}:{number}", "shards": [row["shard"] for row in shards]}


def _model(database: sqlite3.Connection, name: str) -> dict[str, Any]:
    alias = _rows(database, "SELECT version FROM aliases WHERE alias = ?", name.removeprefix("@"))
    version = alias[0]["version"] if alias else name
    found = _rows(database, "SELECT * FROM versions WHERE version = ?", version)
    if not found:
        raise _nothing("model", name)
    aliases = [row["alias"] for row in _rows(database, "SELECT alias FROM aliases WHERE version = ?", version)]
    videos = _rows(database, _VIDEOS_OF, version)
    return {"id": version, "aliases": sorted(aliases)} | found[0] | {"videos": videos} | _withdrawn(database, videos)


_ANSWERS = {"patient": _patient, "video": _video, "frame": _frame, "model": _model}


def _touched(database: sqlite3.Connection, videos: list[dict[str, Any]]) -> dict[str, Any]:
    """The versions that used any of the videos, and what for."""
    rows = _rows(database, _VERSIONS_OF, json.dumps([video["video_id"] for video in videos]))
    versions = [row | {name: sorted(json.loads(row[name])) for name in ("roles", "aliases")} for row in rows]
    return {"videos": videos, "versions": versions} | _withdrawn(database, videos)


def _withdrawn(database: sqlite3.Connection, videos: list[dict[str, Any]]) -> dict[str, Any]:
    patients = {row["patient_id"] for row in _rows(database, "SELECT patient_id FROM withdrawn")}
    return {"withdrawn": sorted(patients and patients & {video["patient_id"] for video in videos})}


def _unique(database: sqlite3.Connection, column: str, prefix: str) -> str:
    """The one id with this beginning; ids of patients and videos alike are accepted by a prefix of 8."""
    query = f"SELECT DISTINCT {column} FROM videos WHERE {column} >= ? AND {column} < ? LIMIT 2"  # noqa: S608
    found = [row[0] for row in database.execute(query, (prefix, f"{prefix}\U0010ffff"))]
    if len(found) == 1 and (len(prefix) >= MIN_PREFIX or found[0] == prefix):
        return str(found[0])
    if len(found) > 1 or len(prefix) < MIN_PREFIX:
        raise WrongUseError(
            "ambiguous", f"{prefix} is not enough to name one.", f"Give at least {MIN_PREFIX} characters of the id."
        )
    raise _nothing(column.removesuffix("_id"), prefix)


def _nothing(kind: str, name: str) -> WrongUseError:
    where = (
        "List versions with `lclsc status`." if kind == "model" else "Ids are pseudonyms and hashes; see manifest.csv."
    )
    return WrongUseError(f"no_{kind}", f"No {kind} is called {name} here.", where)


def _rows(database: sqlite3.Connection, query: str, *values: object) -> list[dict[str, Any]]:
    """Plain tuples are fetched several times as fast as ``sqlite3.Row``; a model may have thousands."""
    cursor = database.cursor()
    cursor.row_factory = None
    cursor.execute(query, values)
    names = [column[0] for column in cursor.description]
    with _no_collection():
        return [dict(zip(names, row, strict=True)) for row in cursor]


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Rows of texts and numbers make no cycles, and thousands of them would have Python look for some."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
