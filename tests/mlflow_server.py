"""A team's MLflow server for the tests: data and accounts in PostgreSQL, passwords asked, one port of loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import postgres

from pipelines import settings

START_SECONDS = 240.0
ACCOUNTS = """[mlflow]
default_permission = NO_PERMISSIONS
database_uri = {uri}
admin_username = admin
auth_cache_ttl_seconds = 60
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@dataclass(frozen=True, kw_only=True)
class MlflowServer:
    address: str
    password: str  # of the account "admin"
    database: postgres.Server

    @property
    def environment(self) -> dict[str, str]:
        """What a user of this server sets, and nothing else."""
        return {
            "MLFLOW_TRACKING_URI": self.address,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }


@contextlib.contextmanager
def running(folder: Path) -> Iterator[MlflowServer]:
    """Artifacts go through the server, which keeps them in ``folder``."""
    with postgres.running() as database, (folder / "server.log").open("wb") as log:
        accounts = folder / "accounts.ini"
        accounts.write_text(ACCOUNTS.format(uri=database.create("accounts")))
        server = MlflowServer(
            address=f"http://127.0.0.1:{_free_port()}", password=secrets.token_urlsafe(16), database=database
        )
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
        command += [
            "--backend-store-uri",
            database.create("mlflow"),
            "--artifacts-destination",
            str(folder / "artifacts"),
        ]
        command += ["--host", "127.0.0.1", "--port", server.address.rpartition(":")[2]]
        environment = (
            os.environ
            | settings.OFFLINE
            | {
                "MLFLOW_AUTH_CONFIG_PATH": str(accounts),
                "MLFLOW_AUTH_ADMIN_PASSWORD": server.password,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            }
        )
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(server, process, folder / "server.log")
            yield server
        finally:
            os.killpg(process.pid, 15)
            process.wait(timeout=60)


def _wait_for(server: MlflowServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{server.address}/health"):
            return
        time.sleep(0.5)
    raise TimeoutError(log.read_text()[-3000:])


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
