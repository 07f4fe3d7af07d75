from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows import console, intake_console
from flows.cli import app
from pipelines.intake import quarantine
from pipelines.intake.batch import IntakeReport
from pipelines.intake.incoming import RowError
from pipelines.workspace import Workspace


def test_what_a_sender_wrote_cannot_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    value = "[/red]\x1b[2J\u202e\n[link=x]"
    error = RowError(row=2, column="label", value=value, code="label_invalid", message="is wrong")
    intake_console.show(IntakeReport(errors=[error]))
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    assert "[/red]" in shown


def test_a_narrow_terminal_breaks_no_id_and_no_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = dict.fromkeys(("batch", "file", "mask", "attempt"), "")
    says = {"cause": "The video is a near copy of one on another side.", "remedy": "Keep one of the two. " * 3}
    record = quarantine.Record(
        quarantine_id="0123456789abcdef" * 4,
        at="2026-07-14T00:00:00Z",
        reason="near_copy_across_split",
        path="glioma/a patient of a long name/one.mp4",
        row={},
        **says,
        **text,
    )
    quarantine.set_aside(Workspace(tmp_path), record)
    monkeypatch.setattr(console, "out", Console(width=80))
    intake_console.show_quarantine(Workspace(tmp_path), json=False)
    item = {"row": 2, "id": record.quarantine_id, "reason": record.reason, "remedy": record.remedy, "again": True}
    intake_console.show(IntakeReport(quarantined=[item]))
    shown = capsys.readouterr().out
    assert [shown.count(word) for word in ("0123456789ab", "near_copy_across_split", "2026-07-14")] == [2, 2, 1]
    assert max(map(len, shown.splitlines())) <= 80


def test_commands_to_paste_keep_a_path_with_spaces_whole(tmp_path: Path) -> None:
    source = tmp_path / "from the [north]"
    source.mkdir()
    (source / "one.mp4").touch()
    draft = CliRunner().invoke(app, ["intake", str(source), "--template", "--workspace", str(tmp_path / "my clinic")])
    assert f"`lclsc intake '{source}' --workspace '{tmp_path}/my clinic'`" in draft.output
    made = CliRunner().invoke(app, ["init", str(tmp_path / "my clinic"), "--preset", "cpu"])
    assert f"Next: lclsc intake SRC --workspace '{tmp_path}/my clinic'\n" in made.output


def test_a_draft_shows_what_it_leaves_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "a pipe" in CliRunner().invoke(app, ["intake", str(tmp_path), "--template"]).output
    (tmp_path / "manifest.csv").unlink()
    said = json.loads(CliRunner().invoke(app, ["intake", str(tmp_path), "--template", "--json"]).stdout)
    assert (said["schema"], said["videos"]) == ("template/1", 0)
    assert said["skipped"] == [{"path": "pipe.mp4", "what": "a pipe"}]
