"""Look for drift on a schedule; an alarm is told to people, and by policy to the deployment ``retrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger
from prefect.utilities.timeout import timeout

from flows import events, notices
from flows.options import open_workspace
from pipelines import monitor as stage

LIMIT_SECONDS = 12 * 3600


@flow(name="monitor", persist_result=False, on_crashed=[notices.of_crash])
def monitor(
    workspace: Path,
    source: stage.Source = "served",
    against: stage.Against = "own",
    log: Path | None = None,
    days: float | None = None,
) -> dict[str, Any]:
    """One look. Drift is no failure of the run: the notice, the artifact and the ledger say it.

    ``log`` is the folder of ``lclsc serve --log`` where it is another than .state/serving; from the workspace on.
    """
    place = open_workspace(workspace)
    with notices.of_trouble("monitor", place), timeout(LIMIT_SECONDS):
        report = stage.run(place, source=source, against=against, log=log and place.root / log, days=days)
    get_run_logger().info("monitor: %s; %d cases against %d", report.status, report.cases, report.reference_cases)
    notices.of_drift(report.as_json(), place.root.name)
    if report.alarms:
        create_table_artifact(
            key="drift", table=[one.as_json() for one in report.alarms], description="What has drifted"
        )
        if report.params.on_alarm == "retrain":
            events.emit(events.DRIFT_FOUND, place)
    return report.as_json()
