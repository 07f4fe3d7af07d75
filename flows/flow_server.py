"""``lclsc serve --flows``: a Prefect server that keeps its history, and the process that runs its flows.

Writes  .state/prefect/   Prefect's home: database, ``server.json`` (address of the running server),
                          ``auth`` (its password, for the page), ``profiles.toml`` (profile ``lclsc``, for its CLI)

Everything listens on this machine only, and the server asks for a password: whoever may talk to it may let
code run. With ``PREFECT_API_URL`` set that server is used, and none is started; while it is away, what runs goes on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from flows import console, flow_runner, prefect_database
from pipelines import locks, processes
from pipelines.errors import LclscError, OutsideSystemError, WrongUseError
from pipelines.files import remove_temporaries, write_json, write_once
from pipelines.ledger import exclusive
from pipelines.redaction import redact
from pipelines.stage import die_with_parent
from pipelines.workspace import Workspace, private_folder

START_SECONDS = 180.0
GRACE_SECONDS = 15.0
HISTORY = {"PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs"}
"""A listing a minute is half a million runs a year: Prefect removes those older than its retention period, 90 days."""


def run(workspace: Workspace, *, drop: str | None, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C; nothing that was started outlives this call."""
    if drop is not None:
        _require_drop(workspace, drop)
    with contextlib.suppress(LclscError):  # somebody else is at work: their own affair
        locks.end_orphans(workspace)
    signal.signal(signal.SIGTERM, _stop)  # until Prefect's runner is up
    family: list[psutil.Process] = []
    try:
        with locks.one_service(workspace), locks.marked(workspace), _server(workspace, port) as server:
            flow_runner.run(workspace, drop, family, server)
    except KeyboardInterrupt:
        console.err.print("stopping")
    finally:
        _end_family(workspace, family + flow_runner.descendants())


def prepare(workspace: Workspace, home: Path) -> str:
    """Prefect's home before its first server starts; returns the password of servers that stay."""
    private_folder(home)
    with exclusive(workspace, "prefect"):
        if home == workspace.state / "prefect":
            remove_temporaries(home)  # of a killed process
        prefect_database.ensure(home)
        return password(home)


def _require_drop(workspace: Workspace, drop: str) -> None:
    """A place that can be read, and not the workspace: told before anything starts."""
    from pipelines.intake import sources  # here: it brings every decoder, and each command imports this module

    root = workspace.root.resolve()
    if not sources.is_address(drop) and Path(drop).resolve() in (root, *root.parents):
        raise WrongUseError(
            "drop_is_workspace",
            "The drop folder is the workspace, or holds it.",
            "Name the folder that batches are put into.",
        )
    sources.of(drop)


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _server(workspace: Workspace, port: int) -> Iterator[subprocess.Popen[bytes] | None]:
    """Our own server on loopback; None where ``PREFECT_API_URL`` names the user's."""
    if os.environ.get("PREFECT_API_URL"):
        console.out.print(f"Prefect: {redact(os.environ['PREFECT_API_URL'])}", markup=False, soft_wrap=True)
        yield None
        return
    port = free_port(port)
    home = Path(os.environ["PREFECT_HOME"])
    word = prepare(workspace, home)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    os.environ["PREFECT_API_AUTH_STRING"] = os.environ["PREFECT_SERVER_API_AUTH_STRING"] = word
    # With the services that make runs of schedules and events.
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = home / "server.log"
    process = start(command, log, HISTORY | os.environ | {"PREFECT_LOGGING_SERVER_LEVEL": "WARNING"})
    try:
        wait_until_ready(process, port, log)
        with exclusive(workspace, "prefect"):
            _tell_others(home, port, word, process.pid)
        _say_where(workspace, home, port)
        yield process
    finally:
        (home / "server.json").unlink(missing_ok=True)
        end(process)


def free_port(port: int) -> int:
    """That port, or any for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that just ended is no obstacle
        try:
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
        except OSError:
            raise WrongUseError(
                "port_in_use", f"Something listens on port {port} already.", "Name another one with --port."
            ) from None


def password(home: Path) -> str:
    """``lclsc:<random>``, made once a workspace and readable by its owner alone."""
    path = home / "auth"
    if not path.exists():
        write_once(path, f"lclsc:{secrets.token_urlsafe(24)}\n".encode())
    word = path.read_text().strip()
    if not word:  # it would let everybody in
        raise WrongUseError("empty_password", f"{path} is empty.", "Delete it: the next start makes a new one.")
    return word


def start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A server of Prefect's in one process; it dies with us."""
    with log.open("wb") as lines:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=lines,
            start_new_session=True,  # Ctrl-C reaches us first: runs are ended while the server still answers
            preexec_fn=die_with_parent,
        )


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with console.err.status("starting Prefect's server"):
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5).close()
                if process.poll() is None:  # and it was not somebody else who answered
                    return
            time.sleep(0.1)
    raise OutsideSystemError("no_prefect_server", "Prefect's server did not start.", f"Its log is {log}.")


def _tell_others(home: Path, port: int, password: str, pid: int) -> None:
    """Prefect's CLI finds the server by the profile, ``lclsc`` commands by server.json."""
    from prefect.settings import load_profiles, save_profiles

    url = f"http://127.0.0.1:{port}/api"
    (home / "profiles.toml").touch(mode=0o600)
    profiles = load_profiles(include_defaults=False)  # others in it are the user's, who may have named this home
    profiles.update_profile("lclsc", {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": password})  # type: ignore[dict-item]
    save_profiles(profiles)
    write_json(home / "server.json", {"url": url, "pid": pid, "started": processes.start_of(pid)})


def _say_where(workspace: Workspace, home: Path, port: int) -> None:
    shown = os.path.relpath(home)
    shown = shown if len(shown) < len(str(home)) else str(home)
    console.out.print(f"Prefect's page: [bold]http://127.0.0.1:{port}[/]  (password: cat {shown}/auth)", soft_wrap=True)
    console.out.print(
        f"Its CLI:        PREFECT_HOME={shown} prefect --profile lclsc deployment run retrain/retrain", soft_wrap=True
    )


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_family(workspace: Workspace, family: list[psutil.Process]) -> None:
    """Whatever is left of runs and their stages, wherever it has been adopted."""
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(family, timeout=GRACE_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    with contextlib.suppress(LclscError):
        locks.end_orphans(workspace)
