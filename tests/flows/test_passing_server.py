"""The Prefect server that one command starts for its own flow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipelines.workspace import Workspace

CODE = """
import json, sys
from pathlib import Path
from pipelines import settings
from pipelines.workspace import Workspace
place = Workspace(Path(sys.argv[1]))
settings.apply(place)
from flows import passing_server
with passing_server.starting(place):
    from prefect import flow, get_client
    from prefect.settings import PREFECT_API_URL
started = [process.pid for process in passing_server._started]

@flow
def work():
    return PREFECT_API_URL.value()

url = work() if started else PREFECT_API_URL.value()
own = [process.pid for process in __import__("psutil").Process().children()]
runs = [run.name for run in get_client(sync_client=True).read_flow_runs()] if started else []
named = passing_server.named_by_user()
print(json.dumps({"named": named, "url": url, "started": started, "own": own, "runs": len(runs)}))
"""


def clean() -> dict[str, str]:
    """This environment, in which nobody has said anything about Prefect."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}


def begun(root: Path, **environment: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(root)], env=clean() | environment, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_one_server_runs_the_flow_and_ends_with_the_command(tmp_path: Path) -> None:
    said = begun(tmp_path)
    assert str(said["url"]).startswith("http://127.0.0.1:")
    assert said["own"] == said["started"]  # and Prefect started no second one
    assert (said["runs"], said["named"]) == (1, None)
    assert not psutil.pid_exists(said["started"][0])  # type: ignore[index]


@pytest.mark.parametrize("named_in", ["environment", "profile"])
def test_a_server_of_the_users_is_used_and_none_stays(tmp_path: Path, named_in: str) -> None:
    theirs = "http://127.0.0.1:9/api"
    home = tmp_path / "home"
    home.mkdir()
    (home / "profiles.toml").write_text(f'active = "mine"\n\n[profiles.mine]\nPREFECT_API_URL = "{theirs}"\n')
    named = {"PREFECT_API_URL": theirs} if named_in == "environment" else {"PREFECT_HOME": str(home)}
    said = begun(tmp_path / "clinic", **named)
    assert (said["named"], said["url"], said["started"], said["own"]) == (theirs, theirs, [], [])
    assert [path.name for path in tmp_path.rglob("*") if path.suffix in (".db", ".log")] == []


def test_a_server_that_does_not_start_is_told_and_its_log_named(tmp_path: Path) -> None:
    code = CODE.replace(
        "with passing_server", "passing_server.AS_PREFECT_DOES['PYTHONHOME'] = '/nowhere'\nwith passing_server"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=clean(), capture_output=True, text=True, check=False
    )
    assert "no_prefect_server" in done.stderr or "did not start" in done.stderr
    assert (tmp_path / ".state" / "prefect" / "passing-server.log").read_text()


SHOWN = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING", "PREFECT_HOME")
APPLIES = """import json, os, sys
from pathlib import Path
from pipelines import settings
from pipelines.workspace import Workspace
settings.apply(Workspace(Path(sys.argv[1])))
print(json.dumps({name: os.environ.get(name) for name in %r}))"""


def applied(workspace: Workspace, **environment: str) -> dict[str, str | None]:
    command = [sys.executable, "-c", APPLIES % (SHOWN,), str(workspace.root)]
    done = subprocess.run(command, env=clean() | environment, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def test_the_server_of_one_command_asks_for_a_password_of_its_own(workspace: Workspace) -> None:
    first, second = applied(workspace), applied(workspace)
    assert first["PREFECT_HOME"] == str(workspace.state / "prefect")
    assert first["PREFECT_API_AUTH_STRING"] == first["PREFECT_SERVER_API_AUTH_STRING"]
    assert first["PREFECT_API_AUTH_STRING"] not in (None, second["PREFECT_API_AUTH_STRING"])


@pytest.mark.parametrize("theirs", ["PREFECT_API_URL", "PREFECT_HOME"])
def test_a_server_or_home_of_ones_own_keeps_its_own_password(workspace: Workspace, tmp_path: Path, theirs: str) -> None:
    assert applied(workspace, **{theirs: str(tmp_path)})["PREFECT_API_AUTH_STRING"] is None
