"""What ``lclsc serve --flows`` does about runs that a killed service left behind, and whom it lets in."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.flows import load_flow_from_entrypoint
from prefect.runner._flow_run_executor import FlowRunExecutor
from prefect.runner._hook_runner import HookRunner
from prefect.states import Crashed
from receiver import Receiver

from flows import flow_runner, flow_server, notices
from pipelines import locks
from pipelines.errors import OutsideSystemError, WrongUseError
from pipelines.workspace import Workspace

RETRAIN, INTAKE = uuid4(), uuid4()


class Server:
    """Prefect's client, with these runs behind it."""

    def __init__(self, runs: list[Any]) -> None:
        self.runs = runs
        self.ended: list[str] = []
        self.asked: list[tuple[UUID, dict[str, Any], list[str]]] = []

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_flow_runs(self, flow_run_filter: object) -> list[Any]:
        return self.runs

    def read_flow(self, flow: str) -> Any:
        return SimpleNamespace(name=flow)

    def set_flow_run_state(self, run: str, state: Any, force: bool) -> None:
        if run == "stuck":
            raise RuntimeError("500")
        assert state.is_crashed()
        assert force
        self.ended.append(run)

    def create_flow_run_from_deployment(self, deployment: UUID, parameters: dict[str, Any], tags: list[str]) -> None:
        self.asked.append((deployment, parameters, tags))


def run(name: str, deployment: UUID = RETRAIN, state: StateType = StateType.RUNNING, tags: tuple[str, ...] = ()) -> Any:
    return SimpleNamespace(
        id=name,
        name=name,
        flow_id="retrain" if deployment == RETRAIN else "intake",
        deployment_id=deployment,
        state_type=state,
        tags=list(tags),
        parameters={"reason": name},
    )


@pytest.mark.parametrize(
    ("lost", "asked", "told"),
    [
        (run("night"), ["night"], ["lclsc: retrain failed"]),
        (run("intake", INTAKE), [], ["lclsc: intake failed"]),
        (run("cancelled by a person", state=StateType.CANCELLING), [], []),
        (run("lost twice", tags=(flow_runner.GOES_ON,)), [], ["lclsc: retrain failed"]),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_a_lost_run_is_ended_and_told_and_a_training_goes_on_with_its_own_parameters(
    lost: Any, asked: list[str], told: list[str], tmp_path: Path, receiver: Receiver
) -> None:
    server = Server([run("stuck", INTAKE), lost])
    with mock.patch("prefect.client.orchestration.get_client", return_value=server):
        flows = {RETRAIN: "retrain", INTAKE: "intake"}
        flow_runner._end_lost_runs(Workspace(tmp_path), flows, workspace_is_free=True)
    assert server.ended == [lost.name]
    assert server.asked == [(RETRAIN, {"reason": name}, [flow_runner.GOES_ON]) for name in asked]
    assert [got["title"] for got in receiver.got] == told


class Ended:
    """Prefect's server and a flow's process that ended like this, for Prefect's own executor."""

    def __init__(self, code: int) -> None:
        self.handle = SimpleNamespace(returncode=code)

    async def start(self, _run: Any, task_status: Any) -> None:
        task_status.started(self.handle)

    async def propose_submitting(self, _run: Any) -> bool:
        return True

    async def propose_crashed(self, _run: Any, message: str) -> Any:
        return Crashed(message=message)


def end(name: str, code: int, workspace: Path) -> None:
    """What Prefect's runner does about a run of this deployment whose process ended with ``code``."""
    ran = FlowRun(flow_id=uuid4(), deployment_id=uuid4(), parameters={"workspace": str(workspace)})
    ended = Ended(code)

    async def load(_run: Any) -> Any:
        return load_flow_from_entrypoint(f"flows.{name}.{name}", use_placeholder_flow=False)

    executor = FlowRunExecutor(
        flow_run=ran,
        starter=ended,
        process_manager=mock.AsyncMock(),
        state_proposer=ended,  # type: ignore[arg-type]
        hook_runner=HookRunner(resolve_flow=load),
        get_attempt_conclusion=lambda _: None,
    )
    asyncio.run(executor.submit(mock.Mock()))


@pytest.mark.parametrize("name", ["intake", "retrain", "audit", "approve", "monitor"])
def test_a_run_whose_process_was_killed_is_told_and_a_cancelled_one_is_not(
    name: str, tmp_path: Path, receiver: Receiver
) -> None:
    for code in (0, -signal.SIGTERM, -signal.SIGKILL):
        end(name, code, tmp_path)
    (got,) = receiver.got
    assert got["title"] == f"lclsc: {name} failed"
    assert got["message"] == (
        f"{tmp_path.name}: Its process was killed (signal 9), perhaps out of memory. "
        "Look at the log; the next run goes on from where it was."
    )
    assert got["type"] == "failure"


def test_passes_that_are_killed_every_minute_are_told_once_a_day(tmp_path: Path, receiver: Receiver) -> None:
    for name in ("intake", "intake", "retrain", "retrain"):
        end(name, -signal.SIGSEGV, tmp_path)
    assert [got["title"].split()[1] for got in receiver.got] == ["intake", "retrain", "retrain"]
    assert "(signal 11)." in receiver.got[0]["message"]


def test_a_process_that_could_not_begin_its_run_is_told_with_its_code(tmp_path: Path, receiver: Receiver) -> None:
    end("audit", 1, tmp_path)
    (got,) = receiver.got
    assert "Its process ended without a verdict (code 1)." in got["message"]


@pytest.mark.parametrize(
    ("deployment", "message"),
    [(None, "Process exited with status code: -9"), (RETRAIN, "Execution was aborted by a termination signal.")],
    ids=["a command", "a service that stops"],
)
def test_a_run_that_somebody_stopped_tells_nobody(
    deployment: UUID | None, message: str, tmp_path: Path, receiver: Receiver
) -> None:
    run = SimpleNamespace(deployment_id=deployment, parameters={"workspace": str(tmp_path)})
    notices.of_crash(SimpleNamespace(name="retrain"), run, Crashed(message=message))
    assert receiver.got == []


def test_what_somebody_paused_stays_paused() -> None:
    def schedule(cron: str, active: bool = True) -> Any:
        return SimpleNamespace(schedule=SimpleNamespace(cron=cron, timezone="UTC"), active=active)

    def deployment(name: str, *schedules: Any, paused: bool = False) -> Any:
        return SimpleNamespace(full_name=name, schedules=list(schedules), paused=paused)

    known = {
        "retrain/retrain": deployment("", schedule("0 2 * * *", active=False), schedule("0 3 * * *")),
        "audit/audit": deployment("", schedule("0 4 * * 0"), paused=True),
    }

    def read(name: str) -> Any:
        if name not in known:
            raise ObjectNotFound(http_exc=RuntimeError("404"))
        return known[name]

    built = [
        deployment("retrain/retrain", schedule("0 2 * * *"), schedule("0 3 * * *"), schedule("0 5 * * *")),
        deployment("audit/audit", schedule("0 4 * * 0")),
        deployment("monitor/monitor", schedule("0 5 * * 1")),
    ]
    client = mock.MagicMock()
    client.__enter__.return_value.read_deployment_by_name = read
    with mock.patch("prefect.client.orchestration.get_client", return_value=client):
        flow_runner._keep_pauses(built)
    assert [[entry.active for entry in one.schedules] for one in built] == [[False, True, True], [True], [True]]
    assert [one.paused for one in built] == [False, True, False]


def test_a_second_service_of_a_workspace_is_refused_before_it_touches_anything(workspace: Workspace) -> None:
    with locks.one_service(workspace), pytest.raises(OutsideSystemError, match="Another process"):
        flow_server.run(workspace, drop=None, port=0)


@pytest.mark.parametrize("folder", [".", ".."])
def test_the_workspace_is_no_drop_folder(workspace: Workspace, folder: str) -> None:
    with pytest.raises(WrongUseError, match="holds it"):
        flow_server.run(workspace, drop=str(workspace.root / folder), port=0)


def test_port_0_is_any_free_one_and_a_taken_one_is_refused() -> None:
    port = flow_server.free_port(0)
    assert port > 0
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(WrongUseError, match=str(port)):
            flow_server.free_port(port)


def test_a_home_of_ones_own_keeps_its_profiles(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text('active = "mine"\n\n[profiles.mine]\nPREFECT_API_URL = "http://mine/api"\n')
    code = "from pathlib import Path; from flows import flow_runner, flow_server\n"
    code += f"flow_server._tell_others(Path({str(tmp_path)!r}), 4200, 'lclsc:word', 1)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PREFECT_HOME": str(tmp_path)})
    said = (tmp_path / "profiles.toml").read_text()
    assert "http://mine/api" in said
    assert "http://127.0.0.1:4200/api" in said
    assert "lclsc:word" in said
    (tmp_path / "profiles.toml").unlink()
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PREFECT_HOME": str(tmp_path)})
    assert stat.S_IMODE((tmp_path / "profiles.toml").stat().st_mode) == 0o600


def test_a_server_that_is_away_for_a_while_ends_no_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Prefect's own patience this loop raises RuntimeError after three polls."""
    from prefect.runner import _scheduled_run_poller

    monkeypatch.setattr(_scheduled_run_poller, "critical_service_loop", _scheduled_run_poller.critical_service_loop)
    flow_runner._be_patient()
    polls = [httpx.ConnectError("away")] * 20 + [KeyError("enough")]
    workload = mock.AsyncMock(side_effect=polls)
    with pytest.raises(KeyError):
        asyncio.run(_scheduled_run_poller.critical_service_loop(workload=workload, interval=0))


def test_a_service_whose_own_server_has_ended_ends_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    with subprocess.Popen(["sleep", "60"]) as server:
        server.kill()
        server.wait()
        runner = Runner()
        with pytest.raises(OutsideSystemError, match="ended"):
            asyncio.run(flow_runner._until_told(runner, [], flow_runner._watch(Workspace(tmp_path), server)))
    assert runner.stopped


class Runner:
    """Runs until it is told to stop."""

    started, stopped = True, False

    async def start(self) -> None:
        while not self.stopped:
            await asyncio.sleep(0.01)

    async def astop(self) -> None:
        self.stopped = True


def test_a_server_without_a_password_does_not_start(tmp_path: Path) -> None:
    made = flow_server.password(tmp_path)
    assert (made, stat.S_IMODE((tmp_path / "auth").stat().st_mode)) == (flow_server.password(tmp_path), 0o600)
    (tmp_path / "auth").write_text("")
    with pytest.raises(WrongUseError, match="Delete it"):
        flow_server.password(tmp_path)
