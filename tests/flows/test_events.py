"""An event is sent while its sender waits, in the form that Prefect's server takes."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.server.events.schemas.events import Event
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED, temporary_settings

from flows import events
from pipelines.workspace import Workspace


class Server(http.server.ThreadingHTTPServer):
    """Takes what is posted to it, or refuses."""

    status = 204

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, Any]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/api"
    with temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}):
        yield server
    server.shutdown()
    server.server_close()


def test_the_server_has_it_when_the_call_is_back(server: Server, tmp_path: Path) -> None:
    events.emit(events.DATA_CHANGED, Workspace(tmp_path / "clinic"))
    ((path, (said,)),) = server.got
    assert path == "/api/events"
    event = Event.model_validate(said)
    assert (event.event, event.resource.id) == ("lclsc.data.changed", "lclsc.workspace.clinic")


def test_a_server_that_refuses_it_is_told(server: Server, tmp_path: Path) -> None:
    server.status = 401
    with pytest.raises(httpx.HTTPStatusError):
        events.emit(events.DATA_CHANGED, Workspace(tmp_path))
