"""What a workspace says to Prefect's automations; the triggers that wait for it are written in prefect.yaml."""

from __future__ import annotations

from prefect.events import emit_event

from pipelines.workspace import Workspace

DATA_CHANGED = "lclsc.data.changed"
DRIFT_FOUND = "lclsc.drift.found"
AUDIT_FOUND = "lclsc.audit.found"


def emit(event: str, workspace: Workspace) -> None:
    emit_event(event, resource={"prefect.resource.id": f"lclsc.workspace.{workspace.root.name}"})
