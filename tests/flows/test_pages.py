"""The lines that a retrain ends with can be pasted, and name the pages that are really there."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import pages
from pipelines import settings
from pipelines.workspace import Workspace

OURS = ("PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI")


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Where nobody has said anything about Prefect and MLflow."""
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    workspace = Workspace(tmp_path / "my clinic")
    workspace.root.mkdir()
    return workspace


def shown(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    settings.apply(workspace)
    pages.show(workspace, Path("my clinic"))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    return {line[:15].strip(): line[15:].strip() for line in lines}


def test_they_can_be_pasted_whatever_the_folder_is_called(
    clinic: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(clinic, capsys)
    assert lines["the report"] == "xdg-open 'my clinic/reports/report.html'"
    assert lines["MLflow's page"].endswith("--backend-store-uri 'sqlite:///my clinic/mlflow.db'")
    assert lines["MLflow's page"].startswith("MLFLOW_DISABLE_TELEMETRY=true mlflow ui --host 127.0.0.1 ")


def test_prefects_page_has_a_password_that_is_there(clinic: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    auth = clinic.state / "prefect" / "auth"
    assert f"$(cat '{auth}')" in shown(clinic, capsys)["Prefect's page"]
    assert auth.read_text().startswith("lclsc:")


def test_a_prefect_home_of_the_users_is_named_and_left_alone(
    clinic: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "theirs"
    monkeypatch.setenv("PREFECT_HOME", str(home))
    line = shown(clinic, capsys)["Prefect's page"]
    assert line.endswith(f"PREFECT_HOME={home} prefect server start --host 127.0.0.1")
    assert not (home / "auth").exists()
    assert not (clinic.state / "prefect").exists()


@pytest.mark.parametrize("who", ["PREFECT_API_URL", "profile"])
def test_servers_that_run_are_named(
    clinic: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], who: str
) -> None:
    prefect, mlflow = "http://127.0.0.1:4201", "https://me:secret@mlflow.invalid"
    if who == "profile":
        monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "theirs"))
        monkeypatch.setattr("flows.passing_server.named_by_user", lambda: f"{prefect}/api")
    else:
        monkeypatch.setenv("PREFECT_API_URL", f"{prefect}/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
    lines = shown(clinic, capsys)
    assert lines["Prefect's page"] == prefect
    assert "secret" not in lines["MLflow's page"]
    assert lines["MLflow's page"].endswith("mlflow.invalid")
