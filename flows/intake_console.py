"""What people read after an intake: what went in, what did not and why, what is set aside."""

from __future__ import annotations

import json as jsonlib
import signal
import threading
from pathlib import Path

from flows import console
from flows.console import plain, printable
from flows.options import HERE
from pipelines.intake import drop_folder, quarantine
from pipelines.intake.batch import IntakeReport
from pipelines.intake.drop_folder import Timing, Visit
from pipelines.intake.incoming import Draft
from pipelines.workspace import Workspace

WHOLE = ("row", "column", "video", "remark", "id", "reason", "id, reason", "since")
"""Columns of words that are copied and matched on: no narrow terminal breaks them."""


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
    if report.not_pushed:
        console.out.print(
            f"[yellow]Not copied to the remotes yet[/]: {plain(report.not_pushed)} The next retrain does it."
        )
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
        console.out.print(console.table("Taken in, but look at", ("row", "video", "remark", "note"), seen, WHOLE))
    if report.errors:
        rows = [(error.row, error.column, printable(error.value), error.message) for error in report.errors]
        console.out.print(console.table("Not taken in", ("row", "column", "value", "problem"), rows, WHOLE))
    if report.quarantined:
        aside = [
            (item["row"], item["id"][:12], item["reason"] + ("\n(as before)" if item["again"] else ""), item["remedy"])
            for item in report.quarantined
        ]
        console.out.print(console.table("Quarantined", ("row", "id", "reason", "remedy"), aside, WHOLE))


def show_draft(draft: Draft, source: str, workspace: Path, json: bool) -> None:
    if json:
        console.print_json(draft.as_json())
        return
    if draft.skipped:
        rows = [(printable(one.path), one.what) for one in draft.skipped]
        console.err.print(console.table("Not in the draft", ("path", "what it is"), rows))
    there = () if workspace == HERE else ("--workspace", workspace)
    following = console.command("lclsc", "intake", source, *there)
    drafted = f"[bold]{plain(str(draft.path))}[/] ({draft.videos} videos)"
    console.err.print(f"Fill in {drafted}, then run `{following}`.", soft_wrap=True)


def show_quarantine(workspace: Workspace, json: bool) -> None:
    records = quarantine.listing(workspace)
    if json:
        console.print_json({"schema": "quarantine-list/1", "records": [record.as_json() for record in records]})
        return
    if not records:
        console.out.print("Nothing is set aside.")
        return
    rows = [
        (
            f"{record.quarantine_id[:12]}\n{record.reason}",
            record.at[:10],
            printable(record.path),
            f"{record.cause} {record.remedy}",
        )
        for record in records
    ]
    console.out.print(console.table("Quarantine", ("id, reason", "since", "name", "what, remedy"), rows, WHOLE))


def watch(workspace: Workspace, folder: str, *, poll: float, settle: float, once: bool, json: bool) -> int:
    """Until SIGTERM or Ctrl-C, which let the video at work be finished and recorded; returns the exit code."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    visits, bad, timing = [], False, Timing(poll=poll, settle=settle)
    for visit in drop_folder.watch(workspace, folder, timing, once=once, wait=ending.wait, is_shown=True):
        bad |= visit.state == "failed" or bool(visit.report and not visit.report.clean)
        if json and once:
            visits.append(visit.as_json())
        elif json:
            print(jsonlib.dumps(visit.as_json(), ensure_ascii=False), flush=True)
        else:
            _show_visit(visit)
    if json and once:
        console.print_json({"schema": "watch/1", "visits": visits})
    return int(bad and once)


def _show_visit(visit: Visit) -> None:
    console.out.print(f"[bold]{plain(visit.batch)}[/]: {visit.state}{': ' if visit.why else ''}{plain(visit.why)}")
    if visit.report is not None:
        show(visit.report)
