"""The audit's checks of the ledger: a damaged line is named and stops nothing, and a growing ledger is no finding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import ledger, versioning
from pipelines.alias_history import breaks, last_words, open_moves
from pipelines.errors import StageError
from pipelines.evidence import ledger_checks, withdrawals
from pipelines.evidence.ledger_events import entries_of, whole_ledger
from pipelines.workspace import Workspace

MOVE = {"alias": "champion", "from": None, "to": "1"}
EVENTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("registered", {"version": "1", "lineage_sha256": "0" * 64, "commit": "c" * 40}),
    ("gated", {"verdict": "passed", "champion": None, "gate_sha256": "0" * 64}),
    ("approved", {"moves": [MOVE]}),
    ("alias_intended", MOVE | {"decision": 3}),
    ("promoted", MOVE | {"decision": 3}),
    ("evaluated", {"metrics": {"macro_f1": 0.5}, "retrain_key": "k", "data_version": "d" * 12}),
    ("published", {"files": {"report.html": "0" * 64}}),
    ("withdrawn", {"videos": ["v"], "versions": ["1"], "purged": ["m"]}),
)
DAMAGE: dict[str, bytes] = {
    "NaN": b"NaN",
    "infinity": b"1e999",
    "a huge integer": str(2**60).encode(),
    "a lone surrogate": b'"\\ud800"',
    "nesting": b"[" * 100_000,
}
EDITS: dict[str, tuple[int, Callable[[dict[str, Any]], object]]] = {
    "a move without its alias": (5, lambda entry: entry["data"].update(aliat=entry["data"].pop("alias"))),
    "a move to nowhere": (5, lambda entry: entry["data"].update(to=["1"])),
    "a decision without moves": (3, lambda entry: entry["data"].update(moves=None)),
    "a decision of half a move": (3, lambda entry: entry["data"].update(moves=[{"alias": "champion"}])),
    "a registration of nothing": (1, lambda entry: entry["data"].pop("commit")),
    "a verdict on nobody": (2, lambda entry: entry["data"].pop("champion")),
    "figures that are no table": (6, lambda entry: entry["data"].update(metrics=[1])),
    "a page without files": (7, lambda entry: entry["data"].pop("files")),
    "a withdrawal of an object": (8, lambda entry: entry["data"].update(purged=[{}])),
    "no data": (8, lambda entry: entry.update(data=None)),
    "a number for a person": (4, lambda entry: entry.update(actor=7)),
    "a key too many": (4, lambda entry: entry.update(more=7)),
}


@pytest.fixture
def noted(workspace: Workspace) -> Workspace:
    """A workspace whose ledger holds one event of each kind that is read, committed."""
    for event, data in EVENTS:
        ledger.append(workspace, actor="tests", event=event, subject="version 1", data=data)
    versioning.commit(workspace, ["ledger.jsonl"], "Note")
    return workspace


def failed(workspace: Workspace) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for check in ledger_checks.check_ledger(workspace):
        if check.verdict != "pass":
            found.setdefault(check.name, []).append(check.object)
    return found


def _read_as_an_audit_does(workspace: Workspace) -> None:
    entries = entries_of(workspace)
    assert len(entries) == len(EVENTS) - 1
    last_words(entries), open_moves(entries), list(breaks(entries)), withdrawals.of(entries)
    list(ledger_checks.check_marks(entries, {"ledger_head": f"3 {'0' * 64}"}, moving=False))


def test_what_every_event_says_is_enough(noted: Workspace) -> None:
    assert failed(noted) == {}
    assert [entry.event for entry in entries_of(noted)] == [event for event, _ in EVENTS]


@pytest.mark.parametrize("kind", EDITS)
def test_a_line_that_does_not_say_what_it_must_is_named_and_left_out(noted: Workspace, kind: str) -> None:
    number, change = EDITS[kind]
    lines = noted.ledger.read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[number - 1])
    change(entry)
    lines[number - 1] = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    noted.ledger.write_bytes(b"".join(lines))
    assert failed(noted)["ledger_events"] == [f"ledger line {number}"]
    with pytest.raises(StageError, match=f"Line {number} "):
        whole_ledger(noted)
    _read_as_an_audit_does(noted)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_value_that_has_no_stored_form_is_named_and_left_out(noted: Workspace, kind: str) -> None:
    noted.ledger.write_bytes(noted.ledger.read_bytes().replace(b'"passed"', DAMAGE[kind]))
    found = failed(noted)
    assert found["ledger_events"] == ["ledger line 2"]
    assert "ledger line 2" in found["ledger_chain"]
    _read_as_an_audit_does(noted)


def test_a_line_that_is_written_and_committed_while_both_are_read_is_not_missed(
    noted: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of file and commit is read first, the other one is read after somebody wrote."""
    written: list[ledger.Entry] = []
    read_bytes, file_at = Path.read_bytes, versioning.file_at

    def write_once() -> None:
        if not written:
            written.append(ledger.append(noted, actor="tests", event="audited", subject="version 1", data={}))
            versioning.commit(noted, ["ledger.jsonl"], "Note")

    def read_bytes_and_write(path: Path) -> bytes:
        content = read_bytes(path)
        if path == noted.ledger:
            write_once()
        return content

    def file_at_and_write(*arguments: Any) -> bytes | None:
        content = file_at(*arguments)
        write_once()
        return content

    monkeypatch.setattr(Path, "read_bytes", read_bytes_and_write)
    monkeypatch.setattr(versioning, "file_at", file_at_and_write)
    assert failed(noted) == {}
    assert written
