"""One pass of the deployment ``intake``: what people and the deployment ``retrain`` hear of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from prefect.logging import disable_run_logger

from flows import intake as flow
from flows import notices
from pipelines.files import write_json
from pipelines.intake import drop_folder
from pipelines.workspace import Workspace

HEADLESS = "erika.mp4,Erika Mustermann,glioma\n"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, workspace: Workspace, tmp_path: Path) -> Iterator[list[str]]:
    """Titles and bodies of the notices of passes over ``tmp_path / "drop"``."""
    said: list[str] = []

    def send(kind: str, title: str, body: str) -> bool:
        said.append(f"{title}: {body}")
        return True

    monkeypatch.setattr(notices, "send", send)
    (tmp_path / "drop" / "march").mkdir(parents=True)
    with disable_run_logger(), mock.patch.object(flow.events, "emit"):
        yield said


def run(workspace: Workspace, tmp_path: Path) -> dict[str, Any]:
    return flow.intake.fn(workspace.root, str(tmp_path / "drop"), settle_seconds=0.0)


def test_a_manifest_without_a_header_is_told_once_and_names_nobody(
    workspace: Workspace, tmp_path: Path, sent: list[str]
) -> None:
    (tmp_path / "drop" / "march" / "manifest.csv").write_text(HEADLESS)
    assert run(workspace, tmp_path)["failed_batches"] == 1
    run(workspace, tmp_path)
    (said,) = sent
    assert "a batch is failed (manifest_columns)" in said
    assert "rika" not in said
    assert "march" not in said


def test_without_a_drop_folder_nothing_is_taken_in_and_nobody_is_called(workspace: Workspace, sent: list[str]) -> None:
    """The clock of a work pool starts it every minute, whether somebody has named one or not."""
    assert flow.intake.fn(workspace.root) == {"schema": "intake-pass/1"}
    assert sent == []


def test_what_a_pass_saw_is_told_although_it_ends_early(
    workspace: Workspace, tmp_path: Path, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "drop" / "march" / "manifest.csv").write_text(HEADLESS)
    monkeypatch.setattr(flow, "announce_news", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(workspace, tmp_path)
    assert [said.split(":")[0] for said in sent] == ["not everything was taken in", "intake failed"]


def test_a_pass_that_runs_out_of_time_is_told(
    workspace: Workspace, tmp_path: Path, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "LIMIT_SECONDS", 0.2)
    monkeypatch.setattr(drop_folder, "watch", lambda *_, **__: [time.sleep(0.05) for _ in range(400)])
    with pytest.raises(TimeoutError):
        run(workspace, tmp_path)
    assert [said.split(":")[0] for said in sent] == ["intake failed"]


def test_news_is_said_once_and_again_by_who_could_not_note_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, sent: list[str]
) -> None:
    emitted = flow.events.emit
    assert isinstance(emitted, mock.Mock)
    flow.announce_news(workspace)
    assert emitted.call_count == 0  # no videos yet
    monkeypatch.setattr(flow.manifest, "read_videos", lambda _: [SimpleNamespace(video_id="0")])
    with monkeypatch.context() as killed:
        killed.setattr(flow, "write_json", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            flow.announce_news(workspace)
    for _ in range(3):
        flow.announce_news(workspace)
    assert emitted.call_count == 2
    write_json(workspace.state / "announced.json", "another version")
    flow.announce_news(workspace)
    assert emitted.call_count == 3


def test_news_that_the_server_does_not_take_is_no_old_news(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, sent: list[str]
) -> None:
    emitted = flow.events.emit
    assert isinstance(emitted, mock.Mock)
    monkeypatch.setattr(flow.manifest, "read_videos", lambda _: [SimpleNamespace(video_id="0")])
    emitted.side_effect = OSError("away")
    with pytest.raises(OSError, match="away"):
        flow.announce_news(workspace)
    emitted.side_effect = None
    flow.announce_news(workspace)
    assert emitted.call_count == 2
