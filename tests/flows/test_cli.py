"""The command line as a whole."""

from __future__ import annotations

from importlib.metadata import version

from typer.testing import CliRunner

from flows.cli import app
from pipelines import locks
from pipelines.errors import OutsideSystemError
from pipelines.workspace import Workspace


def test_the_version_is_the_installed_one() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"lclsc {version('lclsc')}\n")


def test_code_json_is_not_rewritten_under_a_run_that_holds_the_workspace(workspace: Workspace) -> None:
    workspace.code.write_text("{}")
    with locks.one_writer(workspace):
        refused = CliRunner().invoke(app, ["status", "--refresh-code", "--json", "--workspace", str(workspace.root)])
    assert isinstance(refused.exception, OutsideSystemError)
    assert refused.exception.code == "workspace_busy"
    assert workspace.code.read_text() == "{}"
