"""New batches in; when one was taken, an event that lets ``retrain`` follow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger
from prefect.utilities.timeout import timeout

from flows import console, events, notices
from flows.options import open_workspace
from pipelines import manifest
from pipelines.files import read_json, write_json
from pipelines.intake import drop_folder, sources
from pipelines.intake.drop_folder import Timing, Visit
from pipelines.workspace import Workspace

LIMIT_SECONDS = 12 * 3600


@flow(name="intake", persist_result=False, on_crashed=[notices.of_crash])
def intake(workspace: Path, drop: str | None = None, settle_seconds: float = 30.0) -> dict[str, Any]:
    """One pass over the drop folder: a path relative to the workspace, or absolute, or an address of fsspec's.

    Names of batches and files may tell who a patient is: Prefect sees counts only.
    """
    if drop is None:  # as `prefect deploy --all` leaves it: no failure to be told every minute
        get_run_logger().warning("intake: no drop folder is named; set `drop` of this deployment in prefect.yaml")
        return {"schema": "intake-pass/1"}
    place = open_workspace(workspace)
    folder, visits = sources.place(drop, place.root), list[Visit]()
    with notices.of_trouble("intake", place), timeout(LIMIT_SECONDS):
        try:
            visits.extend(
                drop_folder.watch(place, folder, Timing(settle=settle_seconds), once=True, wait=lambda _: False)
            )
            announce_news(place)
        finally:  # also of a pass that ended early
            _notify(place, folder, visits)
    report = summary(visits)
    said = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in report.items() if count)
    get_run_logger().info("intake: %s", said or "nothing new")
    if said:
        console.say_served(f"intake   {said}")
    return {"schema": "intake-pass/1"} | report


def announce_news(workspace: Workspace) -> None:
    """Say that the data version changed, however it did; who waits for it is written in prefect.yaml.

    A pass that is killed before it could note what it said says it again: a retrain that has nothing to do costs
    one status check.
    """
    videos, path = manifest.read_videos(workspace.manifest), workspace.state / "announced.json"
    if not videos:
        return
    version = manifest.version_of(videos, manifest.read_splits(workspace.splits))
    if path.exists() and read_json(path) == version:
        return
    events.emit(events.DATA_CHANGED, workspace)
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


def _notify(workspace: Workspace, folder: str, visits: list[Visit]) -> None:
    """Counts, states and codes: the words of an error may name a file, a batch or a patient."""
    name, report = workspace.root.name, summary(visits)
    said = [f"{report[what]} {what.replace('_', ' ')}" for what in ("set_aside", "row_errors") if report[what]]
    said += [f"a batch is {visit.state} ({visit.code or visit.why})" for visit in visits if visit.alarm]
    if said:
        where = "`lclsc intake --quarantine` lists what was set aside, `lclsc intake DROP --watch --once` says more."
        if notices.send("intake", "not everything was taken in", f"{name}: {'; '.join(said)}. {where}"):
            drop_folder.note_told(workspace, folder, visits)
    for why in {visit.report.not_pushed for visit in visits if visit.report and visit.report.not_pushed}:
        notices.send("intake", "not copied to the remotes yet", f"{name}: {why} The next retrain copies it.")
