"""``lclsc serve --flows``: a Prefect server that keeps its history, and the process that runs its flows.

Writes  .state/prefect/   Prefect's home: database, ``server.json`` (address of the running server),
                          ``auth`` (its password, for the page), ``profiles.toml`` (profile ``lclsc``, for its CLI)

Everything listens on this machine only, and the server asks for a password: whoever may talk to it may let
code run. With ``PREFECT_API_URL`` set that server is used, and none is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from flows import console
from pipelines import locks, processes
from pipelines.errors import LclscError, OutsideSystemError, WrongUseError
from pipelines.files import write_json
from pipelines.intake import sources
from pipelines.stage import die_with_parent
from pipelines.workspace import Workspace, private_folder

START_SECONDS = 180.0
GRACE_SECONDS = 15.0
HISTORY = {"PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs"}
"""A listing a minute is half a million runs a year: Prefect removes those older than its retention period, 90 days."""
GOES_ON = "goes-on"
"""Tag of a run that goes on where a lost one was. Lost itself it is not asked for again: it may be what kills us."""


def run(workspace: Workspace, *, drop: str | None, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C; nothing that was started outlives this call."""
    if drop is not None:
        sources.of(drop)  # a misspelt path is told before anything starts
    with contextlib.suppress(LclscError):  # somebody else is at work: their own affair
        locks.end_orphans(workspace)
    signal.signal(signal.SIGTERM, _stop)  # until Prefect's runner is up
    family: list[psutil.Process] = []
    try:
        with locks.marked(workspace), _server(workspace, port) as is_ours:
            _run_flows(workspace, drop, family, server_is_ours=is_ours)
    except KeyboardInterrupt:
        console.err.print("stopping")
    finally:
        _end_family(workspace, family + _descendants())


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


# --- the server ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _server(workspace: Workspace, port: int) -> Iterator[bool]:
    """The user's server where ``PREFECT_API_URL`` names one, else our own on loopback; whether it is our own."""
    if os.environ.get("PREFECT_API_URL"):
        console.out.print(f"Prefect: {os.environ['PREFECT_API_URL']}")
        yield False
        return
    port = _free(port)
    home = private_folder(Path(os.environ["PREFECT_HOME"]))
    password = _password(home)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    os.environ["PREFECT_API_AUTH_STRING"] = os.environ["PREFECT_SERVER_API_AUTH_STRING"] = password
    process = _start(home, port)
    try:
        _wait_until_ready(process, port, home)
        _tell_others(home, port, password, process.pid)
        _say_where(workspace, home, port)
        yield True
    finally:
        (home / "server.json").unlink(missing_ok=True)
        _end(process)


def _free(port: int) -> int:
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


def _password(home: Path) -> str:
    """``lclsc:<random>``, made once a workspace and readable by its owner alone."""
    path = home / "auth"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(f"lclsc:{secrets.token_urlsafe(24)}\n")
    return path.read_text().strip()


def _start(home: Path, port: int) -> subprocess.Popen[bytes]:
    """One process, with the services that make runs of schedules and events; it dies with us."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("wb") as log:
        return subprocess.Popen(
            command,
            env=HISTORY | os.environ | {"PREFECT_LOGGING_SERVER_LEVEL": "WARNING"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches us first: runs are ended while the server still answers
            preexec_fn=die_with_parent,
        )


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, home: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with console.err.status("starting Prefect's server"):
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5).close()
                return
            time.sleep(0.3)
    raise OutsideSystemError("no_prefect_server", "Prefect's server did not start.", f"Its log is {home}/server.log.")


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


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- its flows -------------------------------------------------------------------------------------


def _run_flows(workspace: Workspace, drop: str | None, family: list[psutil.Process], *, server_is_ours: bool) -> None:
    """Prefect's runner: polls, and starts each run in a process of its own. Schedules go on at the next start."""
    os.environ["LCLSC_SERVING"] = "1"
    from flows import deployments

    built = deployments.build(workspace, drop)
    runner = _runner(workspace)
    flow_of = {runner.add_deployment(deployment): deployment.flow_name for deployment in built}
    for deployment in built:
        console.out.print(f"  {deployment.full_name:<18} {_when(deployment)}", highlight=False)
    if server_is_ours:
        _end_lost_runs(flow_of)
    asyncio.run(_until_told(runner, family))


def _end_lost_runs(flow_of: dict[Any, str | None]) -> None:
    """Runs that a killed service left behind run no more: give their slots back, and let a training go on.

    On our own server nobody but the service before this one can have run them.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    begun = filters.FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    ours = filters.FlowRunFilter(
        state=filters.FlowRunFilterState(type=begun),
        deployment_id=filters.FlowRunFilterDeploymentId(is_null_=False),
    )
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=ours):
            try:
                client.set_flow_run_state(run.id, Crashed(message="The service that ran it was killed."), force=True)
            except Exception as error:  # one run that Prefect cannot end must not keep the others waiting
                console.err.print(f"the lost run {run.name} could not be ended ({type(error).__name__})")
            goes_on = run.state_type != StateType.CANCELLING and GOES_ON not in run.tags
            if run.deployment_id and flow_of.get(run.deployment_id) == "retrain" and goes_on:
                client.create_flow_run_from_deployment(run.deployment_id, parameters=run.parameters, tags=[GOES_ON])


def _runner(workspace: Workspace) -> Any:
    """Its folder for runs would lie in /tmp under a name that all users of the machine share."""
    from prefect.runner import Runner

    tempfile.tempdir = str(private_folder(workspace.state / "runner"))
    try:
        return Runner(name=f"lclsc {workspace.root.name}", pause_on_shutdown=False)
    finally:
        tempfile.tempdir = None


async def _until_told(runner: Any, family: list[psutil.Process]) -> None:
    """Run until a signal; then end the runs and say so on Prefect's page, which the runner's own handler does not.

    ``family`` is filled with what runs by then: Ray's agents outlive their parents and hide their environment.
    """
    running = asyncio.create_task(runner.start())
    while not runner.started and not running.done():
        await asyncio.sleep(0.1)
    stops: list[asyncio.Future[None]] = []

    def stop() -> None:
        if stops:
            return  # a second signal changes nothing: the runs are being ended
        family.extend(_descendants())
        stops.append(asyncio.ensure_future(runner.astop()))

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await running
    await asyncio.gather(*stops)


def _when(deployment: Any) -> str:
    crons = [f"{entry.schedule.cron} ({entry.schedule.timezone})" for entry in deployment.schedules or []]
    events = [f"after {name}" for trigger in deployment.triggers for name in sorted(trigger.expect)]
    return ", ".join(crons + events) or "when asked"


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


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
