"""The servers of a team on a real PostgreSQL, by the scripts of deploy/, with real clients."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from e2e import servers
from e2e.line import LCLSC, Line
from e2e.served import Served
from faults import promotions

from pipelines import lineage, registry
from pipelines.errors import LclscError
from pipelines.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because a socket's path is; and passable, because PostgreSQL does not run as root."""
    with tempfile.TemporaryDirectory(prefix="team-", dir="/tmp") as name:
        yield Path(name)


def test_a_server_starts_with_a_whole_secret_or_not_at_all(tmp_path: Path) -> None:
    def start(command: str) -> int:
        script = f"set -euo pipefail; umask 077; . {servers.ROOT}/deploy/secret.sh; {command}"
        return subprocess.run(["bash", "-c", script], capture_output=True, check=False).returncode

    secret = tmp_path / "secret"
    cut_off = "cut_off() { printf 'half of it'; false; }; "
    assert (start(f"{cut_off} made {secret} cut_off"), secret.exists()) == (1, False)
    assert start(f"made {secret} secret") == 0
    first = secret.read_text()
    assert (len(first), stat.S_IMODE(secret.stat().st_mode)) == (33, 0o600)
    assert (start(f"made {secret} secret"), secret.read_text()) == (0, first)
    secret.write_text("")
    assert start(f"made {secret} secret") == 1


def test_a_service_runs_its_flows_by_a_server_on_postgresql(
    empty_workspace: Path, folder: Path, tmp_path: Path, require: Callable[[str], str]
) -> None:
    require("initdb")
    line = Line(empty_workspace, tmp_path / "patients.key").copy(tmp_path / "w")
    port = servers.free_port()
    with servers.script("prefect-server.sh", folder, port) as server:
        service = Served(line, tmp_path / "drop")
        service.process = server  # type: ignore[assignment]
        service.wait_for(lambda: servers.status(port, "health") == 200, 600)
        assert servers.status(port, "admin/version") == 401  # without the password
        second = [str(servers.ROOT / "deploy" / "prefect-server.sh"), str(folder), str(servers.free_port())]
        refused = subprocess.run(second, capture_output=True, text=True, check=False)
        assert (refused.returncode, "already" in refused.stderr) == (1, True)  # and leaves the database running
        url = f"http://127.0.0.1:{port}/api"
        line.environment |= {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": (folder / "auth").read_text().strip()}
        service.process = line.start("serve", "--flows", "--drop", str(service.drop))
        command = ["psql", "--host", str(folder / "postgresql"), "prefect", "--tuples-only", "--no-align", "--command"]
        query = "select r.state_name from flow_run r join flow f on f.id = r.flow_id where f.name = 'intake'"
        service.wait_for(lambda: "Completed" in line.tool(*command, query), 600)
        assert service.stop() == 0
    assert not (folder / "postgresql" / "postmaster.pid").exists()


def test_a_node_of_ray_asks_for_its_token_and_ends_with_all_it_started(folder: Path) -> None:
    token, port, ip = folder / "ray.token", servers.free_port(), "127.0.0.11"
    node = [str(servers.ROOT / "deploy" / "ray-node.sh"), str(token), "127.0.0.12", f"{ip}:{port}"]
    early = subprocess.run(node, capture_output=True, text=True, check=False)
    assert (early.returncode, "copy it from the first node" in early.stderr) == (1, True)
    with servers.script("ray-node.sh", token, ip, "--port", port, "--num-cpus", "1", "--temp-dir", folder) as first:
        servers.wait_for(lambda: nodes(f"{ip}:{port}", token) == 1, first)
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        other = folder / "other.token"
        other.write_text("x" * 32)
        assert nodes(f"{ip}:{port}", other) == 0
    commands = [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]
    assert [one for one in commands if str(folder) in one] == []


def nodes(address: str, token: Path) -> int:
    """How many nodes a client with this token sees."""
    code = f"import ray; ray.init('{address}', logging_level='ERROR'); print(len(ray.nodes()))"
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, env=os.environ | access, capture_output=True, text=True, check=False).stdout
    return int(said or 0)


@contextlib.contextmanager
def mlflow(folder: Path, port: int) -> Iterator[None]:
    """MLflow's server, answering; the environment leads to it."""
    with servers.script("mlflow-server.sh", folder, port) as server, pytest.MonkeyPatch.context() as patch:
        servers.wait_for(lambda: servers.status(port, "2.0/mlflow/experiments/get?experiment_id=0") == 401, server)
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        patch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", (folder / "password").read_text().strip())
        yield
    assert not (folder / "postgresql" / "postmaster.pid").exists()


def test_a_registry_on_postgresql_serves_a_team_and_comes_back_from_its_dump(
    folder: Path, tmp_path: Path, require: Callable[[str], str]
) -> None:
    require("initdb")
    backup, port = tmp_path / "backup", servers.free_port()
    backup.mkdir()
    database = ("--host", str(folder / "postgresql"))
    with mlflow(folder, port):
        workspace = promotions.build(tmp_path / "w", versions=2)
        before = held(workspace)
        assert before["aliases"] == {"champion": "1"}
        assert before["complete"] == [True, True]
        told = subprocess.run(
            [LCLSC, "history", "--json", "--workspace", str(workspace.root)], check=True, capture_output=True, text=True
        )
        assert json.loads(told.stdout)["aliases"] == {"champion": "1"}
        assert not workspace.tracking_database.exists()
        assert not workspace.tracking_artifacts.exists()
        assert any((folder / "artifacts").rglob("lineage.json"))
        assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600
        for name in ("mlflow", "mlflow_accounts"):
            tool("pg_dump", *database, "--format", "custom", "--file", f"{backup}/{name}.dump", name)
        for name in ("password", "artifacts"):
            tool("cp", "-a", str(folder / name), str(backup))
    for one in folder.iterdir():
        shutil.rmtree(one) if one.is_dir() else one.unlink()
    tool("cp", "-a", f"{backup}/password", str(folder))
    with mlflow(folder, port):
        with pytest.raises(LclscError) as lost:
            registry.connect(workspace).require_kept()
        assert lost.value.code == "registry_lost"
        for name in ("mlflow", "mlflow_accounts"):
            tool("dropdb", *database, "--force", name)
            tool("createdb", *database, name)
            restore = ("--no-owner", "--exit-on-error", "--dbname", name, f"{backup}/{name}.dump")
            tool("pg_restore", *database, *restore)
        tool("cp", "-a", f"{backup}/artifacts", str(folder))
    with mlflow(folder, port):
        assert held(workspace) == before
        registry.connect(workspace).set_alias("challenger", "2")  # which only the promoting clone may
        promotions.register(workspace, 2)
        assert [version.version for version in registry.connect(workspace).versions()][-1] == "3"


def held(workspace: Workspace) -> dict[str, Any]:
    """Versions with their packages' hashes, aliases and the promoter, as the server gives them."""
    store = registry.connect(workspace)
    shutil.rmtree(workspace.state / "packages", ignore_errors=True)  # what was fetched before
    packages = {one.version: lineage.verify_package(store.download(one))["weights_sha256"] for one in store.versions()}
    complete = [version.complete for version in store.versions()]
    return {"packages": packages, "complete": complete, "aliases": store.aliases(), "tags": store.marks()}


def tool(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
