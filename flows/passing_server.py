"""The Prefect server that one command starts for its own flow, where neither the user nor ``serve --flows`` has one.

The server that Prefect would start itself (``SubprocessASGIServer``), but sooner, and without the two seconds that
the import of the server's code takes in a process that only needs the client.
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
from pipelines.workspace import Workspace

URL = "PREFECT_API_URL"
AS_PREFECT_DOES = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1", "PREFECT_UI_ENABLED": "0"}

_started: list[subprocess.Popen[bytes]] = []


@contextlib.contextmanager
def starting(workspace: Workspace) -> Iterator[None]:
    """The server starts while the body runs, answers when that is done, and ends with this process."""
    home = workspace.state / "prefect"
    flow_server.prepare(workspace, home)
    if os.environ.get(URL):
        yield
        return
    port = flow_server.free_port(0)
    process = flow_server.start(_command(port), home, os.environ | AS_PREFECT_DOES)
    atexit.register(flow_server.end, process)  # after Prefect has sent it the last events
    yield
    if _is_wanted():
        flow_server.wait_until_ready(process, port, home)
        _started.append(process)
        _use(f"http://127.0.0.1:{port}/api")
    else:
        flow_server.end(process)


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


def _is_wanted() -> bool:
    """No other server is named, in a profile or a file: known only once Prefect is imported, a second later."""
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_ENABLED

    return not PREFECT_API_URL.value() and bool(PREFECT_SERVER_EPHEMERAL_ENABLED.value())


def _command(port: int) -> list[str]:
    where = ["--app-dir", sysconfig.get_path("purelib"), "--factory", "prefect.server.api.server:create_app"]
    listening = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    return [sys.executable, "-m", "uvicorn", *where, *listening]


def _use(url: str) -> None:
    """For Prefect in this process alone: nobody else is told of a server that ends with this command."""
    from prefect.context import refresh_global_settings_context

    os.environ[URL] = url
    refresh_global_settings_context()
    del os.environ[URL]
