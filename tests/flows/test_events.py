"""An event is sent while its sender waits, in the form that Prefect's server takes and the triggers wait for."""

from __future__ import annotations

import http.server
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.server.events.schemas.automations import Automation, EventTrigger
from prefect.server.events.schemas.events import Event, ReceivedEvent
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED, temporary_settings
from receiver import Receiver

from flows import audit, deployments, events, monitor
from pipelines import params
from pipelines.drift import Finding
from pipelines.evidence import audit as audit_stage
from pipelines.evidence.check import Check, Verdict
from pipelines.evidence.object_checks import Sample
from pipelines.monitor import MonitorReport
from pipelines.workspace import Workspace, template_file


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


def starts(workspace: Workspace, said: dict[str, Any]) -> list[str]:
    """Deployments of the shipped prefect.yaml that Prefect's server starts on this event."""
    found = []
    for deployment in deployments.build(workspace, None):
        for trigger in deployment.triggers:
            trigger.set_deployment_id(uuid4())
            automation = Automation.model_validate(trigger.as_automation().model_dump() | {"id": uuid4()})
            assert isinstance(automation.trigger, EventTrigger)
            event = ReceivedEvent.model_validate(said)
            if automation.enabled and automation.trigger.covers(event) and automation.trigger.expects(event.event):
                found.append(deployment.full_name)
    return found


@pytest.fixture
def alone(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Workspace:
    """A workspace whose flows run without Prefect's engine; ``server`` gets their events and nothing else."""
    for flow in (audit, monitor):
        monkeypatch.setattr(flow, "get_run_logger", lambda: logging.getLogger("test"))
        monkeypatch.setattr(flow, "create_table_artifact", lambda **_: None)
        monkeypatch.setattr(flow, "open_workspace", Workspace)
    return Workspace(tmp_path / "clinic")


@pytest.mark.parametrize("verdict", ["fail", "unknown"])
def test_an_audit_with_a_finding_tells_people_and_asks_for_a_retrain(
    verdict: Verdict, alone: Workspace, server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [Check(name="weights", verdict="pass", object="1"), Check(name="objects", verdict=verdict, object="1")]
    report = audit_stage.AuditReport(targets=["1"], sample=Sample(), checks=checks)
    monkeypatch.setattr(audit_stage, "run", lambda *_, **__: report)
    with pytest.raises(audit.AuditFindingError, match="1 of 2 checks did not pass: objects"):
        audit.audit.fn(alone.root)
    ((_, (said,)),) = server.got
    assert starts(alone, said) == ["retrain/retrain"]
    (got,) = receiver.got
    assert (got["title"], got["message"]) == (f"lclsc: audit: {verdict}", "clinic: 1 findings (objects).")


def test_an_audit_that_passes_tells_nobody_and_starts_nothing(
    alone: Workspace, server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [Check(name="weights", verdict="pass", object="1")]
    report = audit_stage.AuditReport(targets=["1"], sample=Sample(), checks=checks)
    monkeypatch.setattr(audit_stage, "run", lambda *_, **__: report)
    assert audit.audit.fn(alone.root)["verdict"] == "pass"
    assert (server.got, receiver.got) == ([], [])


@pytest.mark.parametrize(("policy", "started"), [("retrain", ["retrain/retrain"]), ("note", [])])
def test_drift_asks_for_a_retrain_where_the_policy_says_so(
    policy: str,
    started: list[str],
    alone: Workspace,
    server: Server,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    darker = Finding(
        site="", figure="mean", test="U", p=0.0, p_adjusted=0.0, effect=0.0, before=1.0, now=0.5, alarm=True
    )
    report = MonitorReport(
        version="7",
        source="served",
        against="own",
        days=7.0,
        cases=20,
        reference_cases=40,
        params=params.load(template_file("params.yaml")).monitor.model_copy(update={"on_alarm": policy}),
        findings=[darker],
    )
    monkeypatch.setattr(monitor.stage, "run", lambda *_, **__: report)
    monitor.monitor.fn(alone.root)
    assert [name for _, (said,) in server.got for name in starts(alone, said)] == started
    assert [got["title"] for got in receiver.got] == ["lclsc: version 7: drift"]


def test_an_event_of_somebody_else_starts_nothing(tmp_path: Path) -> None:
    said = {"event": "prefect.flow-run.Completed", "resource": {"prefect.resource.id": "x"}, "id": str(uuid4())}
    assert starts(Workspace(tmp_path), said | {"occurred": "2026-01-01T00:00:00Z"}) == []
