"""The Prefect server that one command starts for its own flow, where neither the user nor ``serve --flows`` has one.

The server that Prefect would start itself (``SubprocessASGIServer``), but while torch and MLflow are imported, and
without the two seconds that the import of the server's code takes in a process that only needs the client.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import sysconfig
import urllib.parse
import urllib.request
from collections.abc import Iterator

from flows import flow_server
from pipelines.workspace import Workspace, private_folder

URL = "PREFECT_API_URL"
UVICORN = "from pipelines import garbage; garbage.collect_rarely(); import uvicorn; uvicorn.main()"
AS_PREFECT_DOES = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1", "PREFECT_UI_ENABLED": "0"}

_started: list[subprocess.Popen[bytes]] = []


@contextlib.contextmanager
def starting(workspace: Workspace) -> Iterator[None]:
    """The server starts while the body runs, answers when that is done, and ends with this process."""
    if not _is_wanted():
        yield
        return
    home = private_folder(workspace.state / "prefect")
    if os.environ.get("PREFECT_HOME") == str(home):
        flow_server.prepare(workspace, home)
    port, log = flow_server.free_port(0), home / "passing-server.log"
    process = flow_server.start(_command(port), log, os.environ | AS_PREFECT_DOES)
    try:
        yield
        flow_server.wait_until_ready(process, port, log)
    except BaseException:
        process.kill()  # in the middle of its start it would hold a SIGTERM back
        process.wait()
        raise
    atexit.register(flow_server.end, process)  # after Prefect has sent it the last events
    _started.append(process)
    _use(f"http://127.0.0.1:{port}/api")


def is_lost() -> bool:
    """Whether a flow ran in this process, by a server that is no longer there."""
    if "prefect.flow_engine" not in sys.modules:
        return False
    if _started:
        return _started[-1].poll() is not None
    address = urllib.parse.urlsplit(os.environ.get(URL, ""))
    if not address.hostname or address.scheme in urllib.request.getproxies():
        return False
    try:
        port = address.port or {"https": 443}.get(address.scheme, 80)
        socket.create_connection((address.hostname, port), timeout=5.0).close()
    except OSError:
        return True
    return False


def named_by_user() -> str | None:
    """Address of the server that is named anywhere where Prefect looks: environment, profile, file."""
    from prefect.settings import PREFECT_API_URL

    return None if _started else PREFECT_API_URL.value()


def _is_wanted() -> bool:
    """Nobody else's database is opened."""
    from prefect.settings import PREFECT_SERVER_EPHEMERAL_ENABLED

    return not named_by_user() and bool(PREFECT_SERVER_EPHEMERAL_ENABLED.value())


def _command(port: int) -> list[str]:
    where = ["--app-dir", sysconfig.get_path("purelib"), "--factory", "prefect.server.api.server:create_app"]
    listening = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    return [sys.executable, "-P", "-c", UVICORN, *where, *listening]


def _use(url: str) -> None:
    """For Prefect in this process alone: nobody else is told of a server that ends with this command."""
    from prefect.context import refresh_global_settings_context

    os.environ[URL] = url
    refresh_global_settings_context()
    del os.environ[URL]
