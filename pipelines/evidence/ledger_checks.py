"""Is the ledger whole, and is what it says last what the registry shows?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines import ledger, versioning
from pipelines.errors import StageError
from pipelines.evidence import verify
from pipelines.evidence.check import Check, Problem, checked, differing
from pipelines.ledger import Entry
from pipelines.workspace import Workspace

MOVES = {"alias_set", "promoted", "rolled_back", "alias_removed"}


def entries_of(workspace: Workspace) -> list[Entry]:
    """What can be read; ``ledger`` fails on what cannot."""
    try:
        return ledger.read(workspace.ledger)
    except StageError:
        return []


def check_ledger(workspace: Workspace) -> Iterator[Check]:
    content = workspace.ledger.read_bytes() if workspace.ledger.exists() else b""
    lines: list[dict[str, Any]] = []
    problems = [_problem(finding) for finding in verify.ledger_findings(content, lines)]
    yield from checked("ledger_chain", f"{len(lines)} events", problems)
    yield from checked("ledger_committed", f"{len(lines)} events", _committed_problems(workspace, content))


def _problem(finding: str) -> Problem:
    where, _, what = finding.partition(": ")
    return Problem(object=where, expected="an entry that follows from the line before", found=what)


def _committed_problems(workspace: Workspace, content: bytes) -> Iterator[Problem]:
    """Lines are only ever added: what git holds is how the file begins."""
    head = versioning.find_commit(workspace, "HEAD")
    committed = versioning.file_at(workspace, head, "ledger.jsonl") if head else None
    if committed is None or content.startswith(committed):
        return
    lines = zip(committed.split(b"\n"), content.split(b"\n"), strict=False)
    first = next((number for number, (one, two) in enumerate(lines, start=1) if one != two), 0)
    yield Problem(
        object=f"ledger line {first}" if first else "the end of the ledger",
        expected="as committed",
        found="changed" if first else "lines are missing",
    )


def last_words(entries: Sequence[Entry]) -> dict[str, str]:
    """alias -> version, as the finished moves leave it."""
    words: dict[str, str | None] = {}
    for entry in entries:
        if entry.event in MOVES:
            words[entry.data["alias"]] = entry.data["to"]
    return {alias: version for alias, version in words.items() if version is not None}


def check_aliases(entries: Sequence[Entry], aliases: Mapping[str, str], *, busy: bool) -> Iterator[Check]:
    """Moves that went past the ledger; a move under way (``busy``: somebody holds the workspace) is unknown."""
    yield from checked("aliases", "the registry's aliases", _alias_problems(entries, aliases, busy=busy))


def _alias_problems(entries: Sequence[Entry], aliases: Mapping[str, str], *, busy: bool) -> Iterator[Problem]:
    pending = open_intents(entries)
    for alias, entry in sorted(pending.items()):
        found = f"intended at line {entry.seq} and not done"
        yield Problem(object=f"alias {alias}", expected="a finished move", found=found, unknown=busy)
    words = last_words(entries)
    for alias in sorted((words.keys() | aliases.keys()) - pending.keys()):
        yield from differing(f"alias {alias}", words.get(alias), aliases.get(alias))


def open_intents(entries: Sequence[Entry]) -> dict[str, Entry]:
    pending: dict[str, Entry] = {}
    for entry in entries:
        alias = entry.data.get("alias")
        if alias is not None and entry.event == "alias_intended":
            pending[alias] = entry
        elif alias is not None and entry.event in MOVES:
            pending.pop(alias, None)
    return pending
