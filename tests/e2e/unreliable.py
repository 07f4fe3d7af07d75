"""A Prefect server of the user's behind a proxy that loses replies after they were committed, or delays them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from e2e import servers

from flows import prefect_database

LATE_SECONDS = 5.0
FAULTS = {2: "dropped", 5: "slow", 8: "refused", 11: "dropped", 17: "dropped", 23: "slow"}
"""Which changing request (POST), counted from 1, is treated how."""


class Proxy:
    """Of TCP. ``dropped``: the server has answered, and the client sees its connection closed. ``slow``: it waits
    for the answer. ``refused``: the request never reaches the server.
    """

    def __init__(self, port: int) -> None:
        self.target = ("127.0.0.1", port)
        self.posts = 0
        self.struck: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """The fault of the last request is the one of the next bytes that come back."""
        faults: list[str] = []
        with contextlib.suppress(OSError), client, socket.create_connection(self.target) as server:
            threading.Thread(target=self._answers, args=[server, client, faults], daemon=True).start()
            while asked := client.recv(1 << 16):
                fault = self._fault(asked)
                if fault == "refused":
                    return
                faults += [fault] if fault else []
                server.sendall(asked)

    def _answers(self, server: socket.socket, client: socket.socket, faults: list[str]) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(1 << 16):
                fault = faults.pop() if faults else None
                if fault == "slow":
                    time.sleep(LATE_SECONDS)
                if fault == "dropped":
                    break
                client.sendall(answer)
            client.shutdown(socket.SHUT_RDWR)

    def _fault(self, asked: bytes) -> str | None:
        if not asked.startswith(b"POST "):
            return None
        with self.lock:
            self.posts += 1
            fault = FAULTS.get(self.posts)
            self.struck.update([fault] if fault else [])
            return fault


@contextlib.contextmanager
def prefect(home: Path) -> Iterator[Proxy]:
    """A server that answers, and the way to it."""
    home.mkdir()
    prefect_database.ensure(home)
    port = servers.free_port()
    listening = ["--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui", *listening]
    environment = os.environ | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with (home / "log").open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server:
        try:
            servers.wait_for(lambda: servers.status(port, "health") == 200, server)
            proxy = Proxy(port)
            with proxy.listening:
                yield proxy
        finally:
            server.terminate()
