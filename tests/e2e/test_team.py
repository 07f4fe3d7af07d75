"""Prefect's server on a real PostgreSQL, by the script of deploy/, with a real service as its client."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.line import Line
from e2e.served import Served

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def test_a_service_runs_its_flows_by_a_server_on_postgresql(
    empty_workspace: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, require: Callable[[str], str]
) -> None:
    require("initdb")
    if os.geteuid() == 0:
        pytest.skip("PostgreSQL does not run as root")
    line = Line(empty_workspace, tmp_path / "patients.key").copy(tmp_path / "w")
    folder = tmp_path_factory.mktemp("pg")  # a socket's path is short
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(ROOT / "deploy" / "prefect-server.sh"), str(folder), str(port)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    server = subprocess.Popen(command, env=line.environment | {"PATH": path}, start_new_session=True)
    try:
        service = Served(line, tmp_path / "drop")
        service.process = server  # type: ignore[assignment]
        service.wait_for(lambda: _status(port, "health") == 200, 240)
        assert _status(port, "admin/version") == 401  # without the password
        url = f"http://127.0.0.1:{port}/api"
        line.environment |= {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": (folder / "auth").read_text().strip()}
        service.process = line.start("serve", "--flows", "--drop", str(service.drop))
        command = ["psql", "--host", str(folder), "prefect", "--tuples-only", "--no-align", "--command"]
        query = "select r.state_name from flow_run r join flow f on f.id = r.flow_id where f.name = 'intake'"
        service.wait_for(lambda: "Completed" in line.tool(*command, query), 180)
        assert service.stop() == 0
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
    assert not (folder / "postgresql" / "postmaster.pid").exists()


def _status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
