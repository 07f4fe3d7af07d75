"""What the registry itself saw: a trigger in its database writes down every change of an alias, unasked.

MLflow overwrites aliases in place and keeps no history; without a witness the ledger could only be compared
with the last state.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

from pipelines import alias_history, ledger, registry, versioning
from pipelines.evidence import verify
from pipelines.ledger import Entry
from pipelines.workspace import Workspace

TRIGGERS = """
CREATE TABLE seen (n INTEGER PRIMARY KEY AUTOINCREMENT, alias TEXT, was TEXT, became TEXT);
CREATE TRIGGER seen_insert AFTER INSERT ON registered_model_aliases
BEGIN INSERT INTO seen (alias, was, became) VALUES (NEW.alias, NULL, NEW.version); END;
CREATE TRIGGER seen_update AFTER UPDATE ON registered_model_aliases
BEGIN INSERT INTO seen (alias, was, became) VALUES (NEW.alias, OLD.version, NEW.version); END;
CREATE TRIGGER seen_delete AFTER DELETE ON registered_model_aliases
BEGIN INSERT INTO seen (alias, was, became) VALUES (OLD.alias, OLD.version, NULL); END;
"""

Change = tuple[str, str | None, str | None]


def install(workspace: Workspace) -> None:
    """Before the first alias is set."""
    with closing(sqlite3.connect(workspace.tracking_database, timeout=20)) as database, database:
        database.executescript(TRIGGERS)


def problems(workspace: Workspace) -> list[str]:
    """Why this is not one linear history that ledger, registry, witness and git agree on; empty when it is."""
    entries = ledger.read(workspace.ledger)
    found = list(verify.check(workspace.ledger, []))
    found += [f"open: {move}" for move in alias_history.open_moves(entries)]
    found += [f"line {entry.seq} does not start at {before}" for entry, before in alias_history.breaks(entries)]
    words, aliases = alias_history.last_words(entries), registry.connect(workspace).aliases()
    if words != aliases:
        found.append(f"the ledger says {words}, the registry {aliases}")
    told, seen = list(_moves(entries)), _seen(workspace)
    if told != seen:
        found.append(f"the ledger tells {told}, the database saw {seen}")
    if ("champion", None) in {(alias, became) for alias, _, became in seen}:
        found.append("there was no champion for a while")
    if versioning.file_at(workspace, "HEAD", "ledger.jsonl") != workspace.ledger.read_bytes():
        found.append("git holds another ledger")
    leftovers = sorted(str(path.relative_to(workspace.root)) for path in (workspace.root / ".git").rglob("*.lock"))
    return found + [f"left behind: {path}" for path in leftovers]


def _moves(entries: list[Entry]) -> Iterator[Change]:
    """Finished moves, as the ledger has them."""
    for entry in entries:
        if entry.event in alias_history.MOVES:
            yield entry.data["alias"], entry.data["from"], entry.data["to"]


def _seen(workspace: Workspace) -> list[Change]:
    """The same, as the database saw them; writing what stands there already is no move."""
    with closing(sqlite3.connect(workspace.tracking_database, timeout=20)) as database:
        rows = database.execute("SELECT alias, was, became FROM seen ORDER BY n").fetchall()
    text = [(alias, *(None if version is None else str(version) for version in pair)) for alias, *pair in rows]
    return [(alias, was, became) for alias, was, became in text if was != became]
