"""The deployments of prefect.yaml, as ``lclsc serve --flows`` registers them: one file for it and for work pools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.flows import load_flow_from_entrypoint
from prefect.schedules import Cron, Schedule
from prefect.types.entrypoint import EntrypointType

from pipelines.errors import WrongUseError
from pipelines.intake import sources
from pipelines.workspace import Workspace, template_file


def read(workspace: Workspace) -> list[dict[str, Any]]:
    """The entries of the workspace's prefect.yaml, or of the shipped one where it has none."""
    own = workspace.root / "prefect.yaml"
    path = own if own.exists() else template_file("prefect.yaml")
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]
        return [{**entry, "parameters": dict(entry.get("parameters") or {})} for entry in entries]
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise _wrong(f"cannot be read ({type(error).__name__})") from None


def build(workspace: Workspace, drop: str | None) -> list[RunnerDeployment]:
    """One deployment an entry, for this workspace; ``drop`` takes the place of the file's own drop folder."""
    return [_deployment(workspace, entry, drop) for entry in read(workspace)]


def _deployment(workspace: Workspace, entry: dict[str, Any], drop: str | None) -> RunnerDeployment:
    parameters = entry["parameters"] | {"workspace": str(workspace.root)}
    waits = False
    if "drop" in parameters:
        parameters["drop"] = sources.place(drop, Path.cwd()) if drop else parameters["drop"]
        waits = parameters["drop"] is None  # nothing to list: shown, and never run by the clock
    try:
        return load_flow_from_entrypoint(entry["entrypoint"], use_placeholder_flow=False).to_deployment(  # type: ignore[return-value]
            name=entry["name"],
            description=entry.get("description"),
            tags=entry.get("tags"),
            parameters=parameters,
            schedules=[] if waits else [_schedule(schedule) for schedule in entry.get("schedules") or []],
            triggers=[DeploymentEventTrigger.model_validate(trigger) for trigger in entry.get("triggers") or []],
            concurrency_limit=ConcurrencyLimitConfig.model_validate(entry["concurrency_limit"]),
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong(f"has a wrong deployment {entry.get('name')!r}: {error}") from None


def _schedule(entry: dict[str, Any]) -> Schedule:
    """Cron with a time zone; ``slug`` lets a restart update a schedule instead of adding one."""
    return Cron(
        entry["cron"],
        timezone=entry["timezone"],
        slug=entry["slug"],
        active=entry.get("active", True),
        parameters=entry.get("parameters"),
    )


def _wrong(what: str) -> WrongUseError:
    return WrongUseError("prefect_yaml", f"prefect.yaml {what}.", "Correct it, or restore it with git.")
