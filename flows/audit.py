"""Re-hash the real bytes behind a model on a schedule; a finding is told to people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger
from prefect.utilities.timeout import timeout

from flows import events, notices
from flows.options import open_workspace
from pipelines.errors import LclscError

LIMIT_SECONDS = 24 * 3600


class AuditFindingError(LclscError):
    """An audit that did not pass: the run fails, so that Prefect's page and automations show it."""

    exit_code = 1


@flow(name="audit", persist_result=False, on_crashed=[notices.of_crash])
def audit(workspace: Path, targets: list[str] | None = None, deep: bool = False, record: bool = True) -> dict[str, Any]:
    """Audit the named targets, by default the champion; AuditFindingError when a check fails or cannot be answered."""
    from pipelines.evidence import audit as stage
    from pipelines.evidence.object_checks import Sample

    place = open_workspace(workspace)
    with notices.of_trouble("audit", place), timeout(LIMIT_SECONDS):
        report = stage.run(place, targets or [], deep=deep, sample=Sample(), record=record).as_json()
    bad = [check for check in report["checks"] if check["verdict"] != "pass"]
    if bad:
        create_table_artifact(key="audit-findings", table=bad, description="What the audit found")
        names = ", ".join(sorted({check["name"] for check in bad}))
        notices.send("audit", f"audit: {report['verdict']}", f"{place.root.name}: {len(bad)} findings ({names}).")
        said = f"{len(bad)} of {len(report['checks'])} checks did not pass: {names}."
        try:
            events.emit(events.AUDIT_FOUND, place)
        except Exception as error:  # a finding is one where Prefect cannot be told, too
            get_run_logger().warning("audit: Prefect's automations were not told (%s)", type(error).__name__)
        raise AuditFindingError("audit_finding", said, "Look at them with `lclsc audit`.")
    get_run_logger().info("audit: %d checks passed for %s", len(report["checks"]), ", ".join(report["targets"]))
    return {"schema": "audit-run/1", "verdict": report["verdict"], "targets": report["targets"]}
