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
from pipelines import manifest
from pipelines.errors import WrongUseError
from pipelines.files import read_json, write_json
from pipelines.intake import drop_folder, sources
from pipelines.intake.drop_folder import Timing, Visit
from pipelines.workspace import Workspace

DATA_CHANGED = "lclsc.data.changed"
"""What the deployment ``retrain`` waits for; see prefect.yaml."""


@flow(name="intake", persist_result=False, timeout_seconds=12 * 3600)
def intake(workspace: Path, drop: str | None = None, settle_seconds: float = 30.0) -> dict[str, Any]:
    """One pass over the drop folder: a path relative to the workspace, or absolute, or an address of fsspec's.

    Names of batches and files may tell who a patient is: Prefect sees counts only.
    """
    if drop is None:
        raise WrongUseError(
            "no_drop_folder",
            "No drop folder is named.",
            "Set `drop` of the deployment intake in prefect.yaml, or start with `lclsc serve --flows --drop DIR`.",
        )
    place = open_workspace(workspace)
    with notices.of_trouble("intake", place):
        visits = list(
            drop_folder.watch(
                place,
                drop if sources.is_address(drop) else place.root / drop,
                Timing(settle=settle_seconds),
                once=True,
                wait=lambda _: False,
            )
        )
        announce_news(place)
    report = summary(visits)
    said = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in report.items() if count)
    get_run_logger().info("intake: %s", said or "nothing new")
    if said:
        console.say_served(f"intake   {said}")
    _notify(place, report, visits)
    return {"schema": "intake-pass/1"} | report


def announce_news(workspace: Workspace) -> None:
    """Say that the data version changed, however it did; who waits for it is written in prefect.yaml.

    What was said is noted behind the saying: a pass that is killed in between says it again, and a retrain that
    has nothing to do costs one status check.
    """
    if not manifest.read_videos(workspace.manifest):
        return
    version, path = manifest.data_version(workspace.manifest, workspace.splits), workspace.state / "announced.json"
    if path.exists() and read_json(path) == version:
        return
    emit_event(DATA_CHANGED, resource={"prefect.resource.id": f"lclsc.workspace.{workspace.root.name}"})
    write_json(path, version)


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


def _notify(workspace: Workspace, report: dict[str, int], visits: list[Visit]) -> None:
    said = [f"{report[name]} {name.replace('_', ' ')}" for name in ("set_aside", "row_errors") if report[name]]
    said += [
        f"nothing is copied to the remotes yet: {visit.report.not_pushed}"
        for visit in visits
        if visit.report and visit.report.not_pushed
    ]
    said += [f"a batch is {visit.state}: {visit.why}" for visit in visits if visit.alarm]
    if said:
        where = "`lclsc intake --quarantine` lists what was set aside."
        notices.send("intake", "not everything was taken in", f"{workspace.root.name}: {'; '.join(said)}. {where}")
