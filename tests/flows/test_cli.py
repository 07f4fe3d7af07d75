"""The command line as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


LOSES_ITS_SERVER = """
import atexit, sys
from pathlib import Path
from pipelines import settings
from pipelines.workspace import Workspace
settings.apply()
from flows import cli, passing_server

def command(**_):
    with passing_server.starting(Workspace(Path(sys.argv[2]))):
        from prefect import flow
    process = passing_server._started[-1]

    @flow
    def retrain():
        process.kill()
        process.wait()

    retrain()

cli.app = command
atexit.register(print, "tidied up", file=sys.stderr)
cli.main()
"""


def test_a_command_whose_prefect_server_died_does_not_wait_for_it(tmp_path: Path) -> None:
    """At its end Prefect would go on for minutes, to send that server its last events."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path), "PREFECT_CLIENT_MAX_RETRIES": "0"}
    command = [sys.executable, "-c", LOSES_ITS_SERVER, "retrain", str(tmp_path), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert (report["status"], done.returncode) == ("failed", OutsideSystemError.exit_code)
    assert "tidied up" not in done.stderr


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
