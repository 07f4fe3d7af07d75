"""The command line as a whole."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from pipelines import locks, versioning
from pipelines.errors import OutsideSystemError, WrongUseError
from pipelines.workspace import Workspace


def test_the_version_is_the_installed_one() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"lclsc {version('lclsc')}\n")


def test_what_is_a_models_does_not_go_with_flows(workspace: Workspace) -> None:
    for option in (["--host", "127.0.0.1"], ["--no-log"]):
        refused = CliRunner().invoke(app, ["serve", "--flows", *option, "--workspace", str(workspace.root)])
        assert isinstance(refused.exception, WrongUseError)
        assert option[0] in refused.exception.cause


def test_a_new_workspace_with_remotes_elsewhere_has_nothing_to_mend_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    made = CliRunner().invoke(app, ["init", str(tmp_path / "clinic"), "--remote", str(tmp_path / "backup")])
    assert made.exit_code == 0, made.output
    assert versioning.missing_objects(Workspace(tmp_path / "clinic")) == []


def test_code_json_is_not_rewritten_under_a_run_that_holds_the_workspace(workspace: Workspace) -> None:
    workspace.code.write_text("{}")
    with locks.one_writer(workspace):
        refused = CliRunner().invoke(app, ["status", "--refresh-code", "--json", "--workspace", str(workspace.root)])
    assert isinstance(refused.exception, OutsideSystemError)
    assert refused.exception.code == "workspace_busy"
    assert workspace.code.read_text() == "{}"
