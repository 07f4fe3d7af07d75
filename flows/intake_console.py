"""What people read after an intake: what went in, what did not and why, what is set aside."""

from __future__ import annotations

from flows import console
from pipelines import quarantine
from pipelines.intake import IntakeReport
from pipelines.workspace import Workspace


def show(report: IntakeReport) -> None:
    counts = {
        "taken in": len(report.taken),
        "already there": len(report.known),
        "corrected": len(report.corrected),
        "quarantined": len(report.quarantined),
        "row errors": len(report.errors),
    }
    shown = [f"{what}: [bold]{count}[/]" for what, count in counts.items() if count or what != "corrected"]
    console.out.print("   ".join([*shown, f"data version [bold]{report.data_version}[/]"]))
    if report.stopped:
        console.out.print("Stopped before the end of the batch; run it again to go on.")
    if report.patients:
        new = ", ".join(f"{count} {split}" for split, count in report.patients.items())
        console.out.print(f"new patients: {new}")
    if report.new_labels:
        console.out.print(f"labels allowed from now on (params.yaml, intake.labels): {', '.join(report.new_labels)}")
    _tables(report)


def _tables(report: IntakeReport) -> None:
    if report.remarks:
        seen = [(item["row"], item["video_id"][:12], item["code"], item["note"]) for item in report.remarks]
        console.out.print(console.table("Taken in, but look at", ("row", "video", "remark", "note"), seen))
    if report.errors:
        rows = [(error.row, error.column, error.value, error.message) for error in report.errors]
        console.out.print(console.table("Not taken in", ("row", "column", "value", "problem"), rows))
    if report.quarantined:
        aside = [
            (item["row"], item["id"][:12], item["reason"] + (" (as before)" if item["again"] else ""), item["remedy"])
            for item in report.quarantined
        ]
        console.out.print(console.table("Quarantined", ("row", "id", "reason", "remedy"), aside))


def show_quarantine(workspace: Workspace, json: bool) -> None:
    records = quarantine.listing(workspace)
    if json:
        console.print_json({"schema": "quarantine-list/1", "records": [record.as_json() for record in records]})
        return
    if not records:
        console.out.print("Nothing is set aside.")
        return
    rows = [
        (record.quarantine_id[:12], record.at[:10], record.path, record.reason, record.cause, record.remedy)
        for record in records
    ]
    console.out.print(console.table("Quarantine", ("id", "since", "name", "reason", "what", "remedy"), rows))
