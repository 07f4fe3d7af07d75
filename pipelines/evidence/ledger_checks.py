"""Is the ledger whole, and is what it says last what the registry shows?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines import ledger, versioning
from pipelines.alias_history import ALIASES, breaks, last_words, open_moves, promoter
from pipelines.evidence import verify
from pipelines.evidence.check import Check, Problem, checked, differing
from pipelines.evidence.ledger_events import faults
from pipelines.files import sha256_bytes
from pipelines.ledger import Entry
from pipelines.registry import LEDGER_HEAD, PROMOTER
from pipelines.workspace import Workspace


def check_ledger(workspace: Workspace) -> Iterator[Check]:
    committed = _committed(workspace)  # before the file: it may grow, and be committed, any moment
    content = workspace.ledger.read_bytes() if workspace.ledger.exists() else b""
    lines: list[dict[str, Any]] = []
    problems = [_problem(finding) for finding in verify.ledger_findings(content, lines)]
    of = f"{len(lines)} events"
    yield from checked("ledger_chain", of, problems)
    yield from checked("ledger_events", of, _event_problems(content))
    yield from checked("ledger_committed", of, _committed_problems(committed, content))


def _event_problems(content: bytes) -> Iterator[Problem]:
    """Lines that cannot be used, and are left out of every other check."""
    for number, entry in enumerate(ledger.scan(content), start=1):
        found = "no entry" if entry is None else "; ".join(faults(entry))
        if found:
            expected = "what its event must say" if entry else "an entry"
            yield Problem(object=f"ledger line {number}", expected=expected, found=found)


def _problem(finding: str) -> Problem:
    where, _, what = finding.partition(": ")
    return Problem(object=where, expected="an entry that follows from the line before", found=what)


def _committed(workspace: Workspace) -> bytes | None:
    head = versioning.find_commit(workspace, "HEAD")
    return versioning.file_at(workspace, head, "ledger.jsonl") if head else None


def _committed_problems(committed: bytes | None, content: bytes) -> Iterator[Problem]:
    """Lines are only ever added: what git holds is how the file begins."""
    if committed is None or content.startswith(committed):
        return
    lines = zip(committed.split(b"\n"), content.split(b"\n"), strict=False)
    first = next((number for number, (one, two) in enumerate(lines, start=1) if one != two), 0)
    yield Problem(
        object=f"ledger line {first}" if first else "the end of the ledger",
        expected="as committed",
        found="changed" if first else "lines are missing",
    )


def check_aliases(entries: Sequence[Entry], aliases: Mapping[str, str], *, moving: bool) -> Iterator[Check]:
    """Moves that went past the ledger, or were left half way; unknown while their owner lives (``moving``)."""
    yield from checked("aliases", "the registry's aliases", _alias_problems(entries, aliases, moving=moving))
    yield from checked("alias_history", "moves of aliases", _history_problems(entries))


def _alias_problems(entries: Sequence[Entry], aliases: Mapping[str, str], *, moving: bool) -> Iterator[Problem]:
    waiting = open_moves(entries)
    pending = {move.alias for move in waiting}
    for move in waiting:
        words = f"version {move.after or 'none'} intended at line {move.decision or '?'} and not done"
        yield Problem(object=f"alias {move.alias}", expected="a finished move", found=words, unknown=moving)
    words_of = last_words(entries)
    for alias in sorted({*ALIASES, *words_of} - pending):
        yield from differing(f"alias {alias}", words_of.get(alias), aliases.get(alias))


def _history_problems(entries: Sequence[Entry]) -> Iterator[Problem]:
    for entry, before in breaks(entries):
        where = f"alias {entry.data['alias']}, ledger line {entry.seq}"
        yield from differing(where, before or "no version before", entry.data["from"] or "no version before")


def check_marks(entries: Sequence[Entry], marks: Mapping[str, str], *, moving: bool) -> Iterator[Check]:
    """What the registry holds of the ledger: a ledger that was rewritten with all of git is not the one it knew."""
    yield from checked("promoter", "who moves aliases", _promoter_problems(entries, marks))
    yield from checked(
        "ledger_anchored", "the ledger, as the registry knew it", _anchor_problems(entries, marks, moving)
    )


def _promoter_problems(entries: Sequence[Entry], marks: Mapping[str, str]) -> Iterator[Problem]:
    named, tag = promoter(entries), f"tag {PROMOTER} of the model"
    if named is None:
        yield Problem(object=tag, expected="noted in the ledger", found="never noted", unknown=True)
    else:
        yield from differing(tag, named, marks.get(PROMOTER))


def _anchor_problems(entries: Sequence[Entry], marks: Mapping[str, str], moving: bool) -> Iterator[Problem]:
    known = marks.get(LEDGER_HEAD)
    if known is None:
        expected, found = "line and hash of the ledger", "missing"
        yield Problem(object=f"tag {LEDGER_HEAD} of the model", expected=expected, found=found, unknown=moving)
        return
    number, _, expected = known.partition(" ")
    line = {str(entry.seq): sha256_bytes(entry.line()) for entry in entries}.get(number)
    found = line or "no such line: cut off, or this clone is behind (git pull)"
    yield from differing(f"ledger line {number}, by the tag {LEDGER_HEAD} of the model", expected, found)
