"""What ``lclsc serve --flows`` runs: the deployments of prefect.yaml, polled for by Prefect's runner."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from flows import console, notices
from pipelines import locks
from pipelines.errors import OutsideSystemError
from pipelines.workspace import Workspace, private_folder

FAILED_POLLS = 10_000
"""In a row, until Prefect's runner gives up and ends its runs: days. Its own 3 are two minutes."""
RETRIES = 7
"""Of a request to the server, with pauses of 2, 4, 8 ... seconds: a run lives through four minutes without it."""
AWAY_SECONDS, LOOK_SECONDS = 300.0, 15.0
"""After which somebody is told that the server does not answer, and how often it is asked."""
GOES_ON = "goes-on"
"""Tag of a run that goes on where a lost one was. Lost itself it is not asked for again: it may be what kills us."""
LOST = "What ran it was killed, or the machine went down."

Server = subprocess.Popen[bytes]


def run(workspace: Workspace, drop: str | None, family: list[psutil.Process], server: Server | None) -> None:
    """Prefect's runner: polls, and starts each run in a process of its own. Schedules go on at the next start."""
    os.environ["LCLSC_SERVING"] = "1"
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", str(RETRIES))
    from flows import deployments  # Prefect reads its settings when it is imported

    built = deployments.build(workspace, drop)
    _keep_pauses(built)
    runner = _runner(workspace)
    flow_of = {runner.add_deployment(deployment): deployment.flow_name for deployment in built}
    for deployment in built:
        console.out.print(f"  {deployment.full_name:<18} {_when(deployment)}", highlight=False)
    if server is not None:
        _end_lost_runs(workspace, flow_of, workspace_is_free=locks.holder(workspace) is None)
    try:
        asyncio.run(_until_told(runner, family, _watch(workspace, server)))
    except Exception as error:
        notices.of_failure("serve --flows", error, workspace.root.name)
        raise


def _keep_pauses(built: list[Any]) -> None:
    """What somebody paused on Prefect's page or with its CLI stays so: registering a deployment would wake it."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        for deployment in built:
            try:
                known = client.read_deployment_by_name(deployment.full_name)
            except ObjectNotFound:
                continue
            paused = {_when_due(entry) for entry in known.schedules if not entry.active}
            for entry in deployment.schedules or []:
                entry.active = bool(entry.active) and _when_due(entry) not in paused
            deployment.paused = known.paused


def _when_due(entry: Any) -> tuple[str | None, str | None]:
    return getattr(entry.schedule, "cron", None), entry.schedule.timezone


def _end_lost_runs(workspace: Workspace, flow_of: dict[Any, str | None], *, workspace_is_free: bool) -> None:
    """Runs that a killed service left behind run no more: tell, give their slots back, and let a training go on.

    On our own server nobody but the service before this one can have run them. A command runs flows without a
    deployment: while nobody holds the workspace, none of them runs either.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    begun = filters.FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    served = None if workspace_is_free else filters.FlowRunFilterDeploymentId(is_null_=False)
    ours = filters.FlowRunFilter(state=filters.FlowRunFilterState(type=begun), deployment_id=served)
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=ours):
            is_wanted = run.state_type != StateType.CANCELLING
            try:
                name = client.read_flow(run.flow_id).name
                client.set_flow_run_state(run.id, Crashed(message=LOST), force=True)
            except Exception as error:  # one run that Prefect cannot end must not keep the others waiting
                console.err.print(f"the lost run {run.name} could not be ended ({type(error).__name__})")
            else:
                if is_wanted:
                    notices.of_killed(name, LOST, workspace)
            goes_on = is_wanted and GOES_ON not in run.tags
            if run.deployment_id and flow_of.get(run.deployment_id) == "retrain" and goes_on:
                client.create_flow_run_from_deployment(run.deployment_id, parameters=run.parameters, tags=[GOES_ON])


def _runner(workspace: Workspace) -> Any:
    """Its folder for runs would lie in /tmp under a name that all users of the machine share."""
    from prefect.runner import Runner

    _be_patient()
    tempfile.tempdir = str(private_folder(workspace.state / "runner"))
    try:
        return Runner(name=f"lclsc {workspace.root.name}", pause_on_shutdown=False)
    finally:
        tempfile.tempdir = None


def _be_patient() -> None:
    """A server that is away for a while must end no training, and the runner has no setting for that."""
    from prefect._internal import observers
    from prefect.runner import _scheduled_run_poller
    from prefect.utilities.services import critical_service_loop

    for module in (observers, _scheduled_run_poller):
        module.critical_service_loop = partial(critical_service_loop, consecutive=FAILED_POLLS)  # type: ignore[attr-defined]


async def _watch(workspace: Workspace, server: Server | None) -> None:
    """Raises when our own server has ended; tells people when any does not answer."""
    seen, told = time.monotonic(), False
    while server is None or server.poll() is None:
        answers = await _answers()
        if answers and told:
            console.say_served("Prefect's server answers again")
        if answers:
            seen, told = time.monotonic(), False
        elif not told and time.monotonic() - seen > AWAY_SECONDS:
            said = "nothing new starts until it does"
            told = notices.send("failed", "Prefect's server does not answer", f"{workspace.root.name}: {said}.")
            console.say_served(f"Prefect's server does not answer; {said}")
        await asyncio.sleep(LOOK_SECONDS)
    log = Path(os.environ["PREFECT_HOME"]) / "server.log"
    raise OutsideSystemError("prefect_server_ended", "Prefect's server ended.", f"Its log is {log}. Start again.")


async def _answers() -> bool:
    from prefect.client.orchestration import get_client

    with contextlib.suppress(TimeoutError):
        async with get_client() as client, asyncio.timeout(LOOK_SECONDS):
            return await client.api_healthcheck() is None
    return False


async def _until_told(runner: Any, family: list[psutil.Process], watch: Coroutine[Any, Any, None]) -> None:
    """Run until a signal, or until ``watch`` raises; then end the runs.

    Their end is said on Prefect's page, which the runner's own handler of signals does not do.
    ``family`` is filled with what runs by then: Ray's agents outlive their parents and hide their environment.
    """
    running = asyncio.create_task(runner.start())
    while not runner.started and not running.done():
        await asyncio.sleep(0.1)
    stops: list[asyncio.Future[None]] = []

    def stop() -> None:
        if stops:
            return  # a second signal changes nothing: the runs are being ended
        family.extend(descendants())
        stops.append(asyncio.ensure_future(runner.astop()))

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    watching = asyncio.create_task(watch)
    await asyncio.wait((running, watching), return_when=asyncio.FIRST_COMPLETED)
    if watching.done():
        stop()
    await running
    await asyncio.gather(*stops)
    if watching.done():
        await watching
    watching.cancel()


def _when(deployment: Any) -> str:
    crons = [
        f"{entry.schedule.cron} ({entry.schedule.timezone}){'' if entry.active else ', paused'}"
        for entry in deployment.schedules or []
    ]
    events = [f"after {name}" for trigger in deployment.triggers for name in sorted(trigger.expect)]
    return ", ".join(crons + events) or "when asked"


def descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)
