"""``lclsc serve --flows`` as a user starts it, and what its Prefect database says about its runs."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from e2e.line import Line


class Served:
    """A running service; ``stop`` and ``kill`` end it."""

    def __init__(self, line: Line, drop: Path) -> None:
        self.line, self.drop = line, drop
        drop.mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.home = line.root / ".state" / "prefect"
        self.log = drop.with_name(f"{drop.name}.log")
        self.process: subprocess.Popen[str] | None = None
        self.strangers: set[str] = set()  # seen so far

    def start(self) -> None:
        with self.log.open("a") as log:
            options = ["--drop", str(self.drop), "--port", str(self.port)]
            self.process = self.line.start("serve", "--flows", *options, stdout=log, stderr=log)
        self.wait_for(lambda: (self.home / "server.json").exists(), 240)

    def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(timeout=seconds)

    def wait_for(self, holds: Callable[[], Any], seconds: float) -> Any:
        """What ``holds`` says once it is true."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.strangers |= strangers(self.family())
            if found := holds():
                return found
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.5)
        raise AssertionError(f"not within {seconds} s:\n{self.log.read_text()}\n{self.said()}")

    def runs(self, flow: str) -> list[str]:
        """States of the flow's runs that began, oldest first."""
        query = (
            "select r.state_name from flow_run r join flow f on f.id = r.flow_id "
            "where f.name = ? and r.start_time is not null order by r.start_time"
        )
        return [state for (state,) in self._ask(query, flow)]

    def seconds(self, flow: str) -> list[float]:
        """How long the flow's finished runs took, oldest first."""
        query = (
            "select round((julianday(r.end_time) - julianday(r.start_time)) * 86400, 1) from flow_run r "
            "join flow f on f.id = r.flow_id where f.name = ? and r.end_time is not null order by r.start_time"
        )
        return [took for (took,) in self._ask(query, flow)]

    def said(self) -> list[str]:
        return [message for (message,) in self._ask("select message from log order by timestamp desc limit 40")][::-1]

    def _ask(self, query: str, *values: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(f"file:{self.home}/prefect.db?mode=ro", uri=True)) as database:
            return database.execute(query, values).fetchall()

    def api(self, path: str, body: Any) -> Any:
        """One question to the server, with its password."""
        import base64

        password = base64.b64encode((self.home / "auth").read_bytes().strip()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {password}"}
        url = f"http://127.0.0.1:{self.port}/api/{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def family(self) -> list[psutil.Process]:
        assert self.process is not None
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


@contextlib.contextmanager
def served(line: Line, drop: Path, **environment: str) -> Iterator[Served]:
    service = Served(line, drop)
    line.environment |= environment
    try:
        service.start()
        yield service
    finally:
        if service.process is not None and service.process.poll() is None:
            service.stop()


def strangers(processes: list[psutil.Process]) -> set[str]:
    """Sockets of these processes that are bound to, or connected with, anything but this machine."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            for one in process.net_connections(kind="inet"):
                for end in (one.laddr, one.raddr):
                    if end and not _is_loopback(end.ip):
                        found.add(f"{process.name()} {one.status} {one.laddr.ip}:{one.laddr.port}")
    return found


def _is_loopback(ip: str) -> bool:
    return ip.startswith("127.") or ip in ("::1", "::ffff:127.0.0.1")
