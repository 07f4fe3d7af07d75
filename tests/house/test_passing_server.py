"""The Prefect server that one command starts for itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.workspace import Workspace

SHOWN = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING", "PREFECT_HOME")
CODE = """import json, os, sys
from pathlib import Path
from pipelines import settings
from pipelines.workspace import Workspace
settings.apply(Workspace(Path(sys.argv[1])))
print(json.dumps({name: os.environ.get(name) for name in %r}))"""


def applied(workspace: Workspace, **environment: str) -> dict[str, str | None]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-c", CODE % (SHOWN,), str(workspace.root)]
    done = subprocess.run(command, env=clean | environment, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def test_the_server_of_one_command_asks_for_a_password_of_its_own(workspace: Workspace) -> None:
    first, second = applied(workspace), applied(workspace)
    assert first["PREFECT_HOME"] == str(workspace.state / "prefect")
    assert first["PREFECT_API_AUTH_STRING"] == first["PREFECT_SERVER_API_AUTH_STRING"]
    assert first["PREFECT_API_AUTH_STRING"] not in (None, second["PREFECT_API_AUTH_STRING"])


@pytest.mark.parametrize("theirs", ["PREFECT_API_URL", "PREFECT_HOME"])
def test_a_server_or_home_of_ones_own_keeps_its_own_password(workspace: Workspace, tmp_path: Path, theirs: str) -> None:
    assert applied(workspace, **{theirs: str(tmp_path)})["PREFECT_API_AUTH_STRING"] is None
