"""What a workspace says to Prefect's automations; the triggers that wait for it are written in prefect.yaml."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.events import Event, Resource

from pipelines.workspace import Workspace

DATA_CHANGED = "lclsc.data.changed"
DRIFT_FOUND = "lclsc.drift.found"
AUDIT_FOUND = "lclsc.audit.found"


def emit(event: str, workspace: Workspace) -> None:
    """Back once the server has it; raises when it does not. ``prefect.events.emit_event`` sends later, or never."""
    said = Event(event=event, resource=Resource({"prefect.resource.id": f"lclsc.workspace.{workspace.root.name}"}))
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[said.model_dump(mode="json")])
