"""MLflow's own server on a workspace's database, with a way to lose, refuse or delay a reply, or to go away."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from pipelines.registry import database
from pipelines.workspace import Workspace

LATE_SECONDS = 5.0
FEW_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}  # MLflow's own 7 wait for minutes
REFUSALS = 3  # requests in a row that a server answers with 503


class Unreliable:
    """A WSGI application whose ``at``-th changing request is treated as ``kind`` says; it counts them all."""

    def __init__(self, app: Callable[..., Iterable[bytes]], kind: str, at: int, counter: str) -> None:
        self.app, self.kind, self.at, self.counter = app, kind, at, counter
        self.seen = 0
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        number = self._number(environ)
        if not self.at or number < self.at:
            return self.app(environ, start)
        if self.kind == "refused" and number < self.at + REFUSALS:
            start("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"not now"]
        if self.kind == "gone":
            os._exit(1)  # whoever asks from now on is refused the connection
        if self.kind == "slow" and number == self.at:
            time.sleep(LATE_SECONDS)
        if self.kind == "dropped" and number == self.at:
            b"".join(self.app(environ, lambda *_: lambda _: None))  # committed
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        return self.app(environ, start)

    def _number(self, environ: dict[str, Any]) -> int:
        """Of this request among those that may change something; 0 for one that only asks."""
        if environ["REQUEST_METHOD"] == "GET" or "search" in environ["PATH_INFO"]:
            return 0
        with self.lock:
            self.seen += 1
            with open(self.counter, "a") as file:  # noqa: PTH123
                file.write(environ["PATH_INFO"].rsplit("/mlflow/", 1)[-1] + "\n")
            return self.seen


def serve(place: Workspace, port: int, kind: str, at: int, counter: str) -> None:
    """Until it is killed. The database is this workspace's, wherever it was made."""
    database.rebase(place)
    uri = f"sqlite:///{place.tracking_database}"
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": uri,
        "_MLFLOW_SERVER_REGISTRY_STORE": uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": str(place.tracking_artifacts),
    }
    from mlflow.server import app
    from werkzeug.serving import make_server

    make_server("127.0.0.1", port, Unreliable(app, kind, at, counter), threaded=True).serve_forever()  # type: ignore[arg-type]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
