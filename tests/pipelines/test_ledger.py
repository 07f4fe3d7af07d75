"""The chain holds under honest use, torn writes and many writers, and shows every dishonest one."""

from __future__ import annotations

import json
import multiprocessing
import resource
import subprocess
from pathlib import Path

import pytest

from pipelines import ledger
from pipelines.errors import StageError
from pipelines.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def add(workspace: Workspace, number: int = 0) -> ledger.Entry:
    return ledger.append(
        workspace, actor="tests", event="registered", subject=f"version {number}", data={"number": number}
    )


def test_every_entry_hashes_the_line_before(workspace: Workspace) -> None:
    entries = [add(workspace, number) for number in range(3)]
    assert ledger.read(workspace.ledger) == entries
    assert [entry.seq for entry in entries] == [1, 2, 3]
    assert entries[0].prev == "0" * 64
    # truth from another tool
    first = workspace.ledger.read_bytes().split(b"\n")[0]
    found = subprocess.run(["sha256sum"], input=first, capture_output=True, check=True).stdout
    assert entries[1].prev == found.split()[0].decode()
    assert ledger.verify(workspace.ledger) == []


def test_a_missing_ledger_is_an_empty_one(workspace: Workspace) -> None:
    assert ledger.read(workspace.ledger) == []
    assert ledger.verify(workspace.ledger) == []


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_torn_first_or_later_line_is_mended(workspace: Workspace, kept: int) -> None:
    for before in (0, 2):
        workspace.ledger.unlink(missing_ok=True)
        for number in range(before + 1):
            add(workspace, number)
        content = workspace.ledger.read_bytes()
        start = content.rfind(b"\n", 0, -1) + 1
        workspace.ledger.write_bytes(content[: start + kept] if kept > 0 else content[:kept])
        assert any("incomplete" in problem for problem in ledger.verify(workspace.ledger))
        assert len(ledger.read(workspace.ledger)) == before
        add(workspace, 99)
        assert ledger.verify(workspace.ledger) == []
        # only the newline was missing: the event was recorded and stays
        assert len(ledger.read(workspace.ledger)) == before + (2 if kept == -1 else 1)


def test_an_event_that_does_not_fit_on_the_disk_leaves_nothing_of_itself(workspace: Workspace) -> None:
    add(workspace)
    before = workspace.ledger.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limits[1]))  # room for a part of the next line
    try:
        with pytest.raises(OSError, match="too large"):
            add(workspace, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert workspace.ledger.read_bytes() == before


def test_tampering_is_found(workspace: Workspace) -> None:
    for number in range(4):
        add(workspace, number)
    lines = workspace.ledger.read_bytes().splitlines(keepends=True)
    edited = lines[1].replace(b'"number":1', b'"number":7')
    spaced = json.dumps(json.loads(lines[1])).encode() + b"\n"
    for forged in (
        [lines[0], edited, *lines[2:]],
        [lines[0], spaced, *lines[2:]],
        [lines[0], *lines[2:]],
        [lines[0], lines[2], lines[1], lines[3]],
        lines[1:],
        [lines[0], b"not json\n", *lines[2:]],
    ):
        workspace.ledger.write_bytes(b"".join(forged))
        assert ledger.verify(workspace.ledger)


def test_a_damaged_end_is_refused_rather_than_continued(workspace: Workspace) -> None:
    add(workspace)
    with workspace.ledger.open("ab") as file:
        file.write(b"garbage\n")
    with pytest.raises(StageError, match="git"):
        add(workspace)
    with pytest.raises(StageError, match="Line 2"):
        ledger.read(workspace.ledger)


def test_an_event_is_snake_case(workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="snake_case"):
        ledger.append(workspace, actor="tests", event="Not-this", subject="x", data={})
    assert not workspace.ledger.exists()


def _add_many(root: Path) -> None:
    for number in range(10):
        add(Workspace(root), number)


def test_many_writers_make_one_chain(workspace: Workspace) -> None:
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=_add_many, args=(workspace.root,)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert ledger.verify(workspace.ledger) == []
    assert len(ledger.read(workspace.ledger)) == 40
