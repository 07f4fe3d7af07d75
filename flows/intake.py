"""New batches in; when one was taken, an event that lets ``retrain`` follow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.events import emit_event
from prefect.logging import get_run_logger

from flows import console, notices
from flows.options import open_workspace
from pipelines.errors import WrongUseError
from pipelines.intake import drop_folder
from pipelines.intake.drop_folder import Timing, Visit
from pipelines.workspace import Workspace

DATA_CHANGED = "lclsc.data.changed"
"""What the deployment ``retrain`` waits for; see prefect.yaml."""


@flow(name="intake", persist_result=False, timeout_seconds=12 * 3600)
def intake(workspace: Path, drop: Path | None = None, settle_seconds: float = 30.0) -> dict[str, Any]:
    """One pass over the drop folder (a path relative to the workspace, or absolute).

    Names of batches and files may tell who a patient is: Prefect sees counts only.
    """
    if drop is None:
        raise WrongUseError(
            "no_drop_folder",
            "No drop folder is named.",
            "Set `drop` of the deployment intake in prefect.yaml, or start with `lclsc serve --flows --drop DIR`.",
        )
    place = open_workspace(workspace)
    timing = Timing(settle=settle_seconds)
    visits = list(drop_folder.watch(place, place.root / drop, timing, once=True, wait=lambda _: False))
    report = summary(visits)
    said = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in report.items() if count)
    get_run_logger().info("intake: %s", said or "nothing new")
    if said:
        console.say_served(f"intake   {said}")
    if report["taken"] or report["corrected"]:
        announce(place)
    _notify(place, report)
    return {"schema": "intake-pass/1"} | report


def announce(workspace: Workspace) -> None:
    """Say that the data version changed; who waits for it is written in prefect.yaml."""
    emit_event(DATA_CHANGED, resource={"prefect.resource.id": f"lclsc.workspace.{workspace.root.name}"})


def summary(visits: list[Visit]) -> dict[str, int]:
    """Batches by state, and what became of the rows of those that were taken."""
    states = Counter(f"{visit.state}_batches" for visit in visits)
    reports = [visit.report for visit in visits if visit.report is not None]
    rows = {
        "taken": sum(len(report.taken) for report in reports),
        "known": sum(len(report.known) for report in reports),
        "corrected": sum(len(report.corrected) for report in reports),
        "set_aside": sum(not item["again"] for report in reports for item in report.quarantined),
        "row_errors": sum(len(report.errors) for report in reports),
    }
    return dict(sorted(states.items())) | rows


def _notify(workspace: Workspace, report: dict[str, int]) -> None:
    wrong = {name: report.get(name, 0) for name in ("failed_batches", "set_aside", "row_errors")}
    if any(wrong.values()):
        said = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in wrong.items() if count)
        where = "`lclsc intake --quarantine` lists what was set aside."
        notices.send("intake", "not everything was taken in", f"{workspace.root.name}: {said}. {where}")
