"""History: the finished moves of all aliases with who asked for them and why, beside what the registry shows now.

Reads   ledger.jsonl, the registry (of an embedded one a private copy)
Writes  nothing
"""

from __future__ import annotations

from typing import Any

from pipelines import alias_history, ledger, params, registry
from pipelines.alias_history import ALIASES
from pipelines.ledger import Entry
from pipelines.workspace import Workspace


def run(workspace: Workspace) -> dict[str, Any]:
    """``history/1``. ``differences``: alias -> the two versions, where ledger and registry do not agree."""
    name = params.load(workspace.params).register_.name
    with ledger.held_still(workspace, "registry") as still, registry.read_only(workspace, name) as store:
        entries = ledger.read(workspace.ledger)
        present = store.aliases() if store else {}
    words = alias_history.last_words(entries)
    open_moves = alias_history.open_moves(entries) if still else []
    busy = {move.alias for move in open_moves} if still else set(ALIASES)
    return {
        "schema": "history/1",
        "moves": [_row(entries, entry) for entry in entries if entry.event in alias_history.MOVES],
        "aliases": present,
        "open": [move.as_json() for move in open_moves],
        "differences": {
            alias: {"ledger": words.get(alias), "registry": present.get(alias)}
            for alias in sorted(set(ALIASES) - busy)  # others are not ours: nobody promotes to them
            if words.get(alias) != present.get(alias)
        },
    }


def _row(entries: list[Entry], entry: Entry) -> dict[str, Any]:
    """One move, with the person and the evidence behind it."""
    decision = entries[entry.data["decision"] - 1] if entry.data.get("decision") else None
    told = decision.data if decision else {}
    evidence = told.get("evidence") or (told if decision and decision.event == "gated" else {})
    return {
        "line": entry.seq,
        "at": entry.at,
        "event": entry.event,
        "alias": entry.data["alias"],
        "from": entry.data["from"],
        "to": entry.data["to"],
        "by": told.get("by", decision.actor if decision else entry.actor),
        "os_user": told.get("os_user"),
        "git_user": told.get("git_user"),
        "reason": told.get("reason"),
        "verdict": evidence.get("verdict"),
        "gate_sha256": evidence.get("gate_sha256"),
    }
