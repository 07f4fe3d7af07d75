"""Monitor: does what the champion looks at still resemble what it was tested on?

Reads   the prediction log of `lclsc serve`, or the videos of new intake; the version's own test and validation videos
Writes  .state/observed/ (what the version says of its own videos: derived), ledger.jsonl on an alarm
Params  monitor
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import drift, ledger, manifest, registry, schemas
from pipelines import params as parameters
from pipelines.drift import Finding
from pipelines.errors import OutsideSystemError, WrongUseError
from pipelines.files import digest, move_unless_there, temporary_folder, write_json
from pipelines.package import child, training_videos
from pipelines.params import MonitorParams
from pipelines.predict import choose
from pipelines.prediction_log import SITE
from pipelines.registry import Registry, Version
from pipelines.workspace import Workspace, private_folder

Source = Literal["served", "intake"]
Against = Literal["own", "log"]
DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, kw_only=True)
class MonitorReport:
    """``status``: drift, steady, or too_few (cases to say anything)."""

    version: str
    source: Source
    against: Against
    days: float
    cases: int
    reference_cases: int
    params: MonitorParams
    findings: list[Finding]

    @property
    def alarms(self) -> list[Finding]:
        return [one for one in self.findings if one.alarm]

    @property
    def status(self) -> str:
        return "drift" if self.alarms else "steady" if self.findings else "too_few"

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": "monitor/1",
            "status": self.status,
            "version": self.version,
            "source": self.source,
            "against": self.against,
            "days": self.days,
            "cases": self.cases,
            "reference_cases": self.reference_cases,
            "alpha": self.params.alpha,
            "min_cases": self.params.min_cases,
            "action": self.params.on_alarm if self.alarms else None,
            "findings": [one.as_json() for one in self.findings],
        }


def run(
    workspace: Workspace,
    *,
    model: str | None = None,
    source: Source = "served",
    against: Against = "own",
    days: float | None = None,
    log: Path | None = None,
    now_ms: int | None = None,
    record: bool = True,
) -> MonitorReport:
    """Compare the last ``days`` with the reference; an alarm is noted in the ledger, once for the same finding."""
    params = parameters.load(workspace.params).monitor
    days = params.window_days if days is None else days
    store = registry.connect(workspace)
    version = choose(store, model)
    since = (int(time.time() * 1000) if now_ms is None else now_ms) - round(days * DAY_MS)
    logged = _logged(log or workspace.served, version, since_ms=0 if against == "log" else since)
    if source == "served":
        recent = logged[logged["at"] >= since]
    else:
        recent = _observed(workspace, store, version, _taken_in_since(workspace, since))
    if against == "log":
        reference = logged[logged["at"] < since]
    else:
        reference = _observed(workspace, store, version, _own_videos(workspace, store, version, since, source))
    now, before = drift.cases(recent), drift.cases(reference)
    enough = len(before) >= params.min_cases
    findings = drift.compare(before, now, alpha=params.alpha, min_cases=params.min_cases) if enough else []
    report = MonitorReport(
        version=version.version,
        source=source,
        against=against,
        days=days,
        cases=len(now),
        reference_cases=len(before),
        params=params,
        findings=findings,
    )
    if record and report.alarms:
        _note(workspace, report)
    return report


def _logged(folder: Path, version: Version, *, since_ms: int) -> pd.DataFrame:
    """Rows that this version wrote, all since then and some from before, ``at`` in ms. A part is named by its end."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(since_ms / 1000))
    parts = sorted(folder.glob("[!.]*.parquet")) if folder.is_dir() else []
    return _table(part for part in parts if f"-v{version.version}-" in part.name and part.name >= stamp)


def _table(parts: Iterable[Path]) -> pd.DataFrame:
    tables = [pq.read_table(part) for part in parts]
    table = pa.concat_tables(tables) if tables else schemas.SERVED.empty_table()
    frame: pd.DataFrame = table.set_column(0, "at", table["at"].cast(pa.int64())).to_pandas()
    frame["fit"], frame["reject"] = frame["fit"].astype(bool), frame["reject"].astype(bool)  # also of an empty table
    return frame


# --- videos of the workspace -----------------------------------------------------------------------


def _own_videos(
    workspace: Workspace, store: Registry, version: Version, since_ms: int, source: Source
) -> list[manifest.Video]:
    """Test and validation videos of the version's splits. New intake is not held against itself."""
    splits = manifest.read_splits(workspace.splits)
    fitted = training_videos(store.download(version))
    recent = {video.video_id for video in _taken_in_since(workspace, since_ms)} if source == "intake" else set()
    return [
        video
        for video in manifest.read_videos(workspace.manifest)
        if splits.get(video.patient_id) == "test"
        or (splits.get(video.patient_id) == "validation" and video.video_id in fitted)
        if video.video_id not in recent
    ]


def _taken_in_since(workspace: Workspace, since_ms: int) -> list[manifest.Video]:
    """By the time at which intake recorded them."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since_ms / 1000))
    fresh = {row.video_id for row in manifest.read_provenance(workspace.provenance) if row.received_at >= stamp}
    return [video for video in manifest.read_videos(workspace.manifest) if video.video_id in fresh]


def _observed(
    workspace: Workspace, store: Registry, version: Version, videos: Sequence[manifest.Video]
) -> pd.DataFrame:
    """What the version says of these videos; it looks at each set once."""
    if not videos:
        return _table([])
    names = [(video.video_id, video.site) for video in videos]
    folder = workspace.state / "observed" / f"{version.tags['lineage_sha256'][:16]}-{digest(names)[:16]}"
    if not folder.exists():
        _look(workspace, store, version, videos, folder)
    return _table(sorted(folder.glob("*.parquet")))


def _look(
    workspace: Workspace, store: Registry, version: Version, videos: Sequence[manifest.Video], folder: Path
) -> None:
    """In a process of the package's own; the folder appears whole."""
    files = workspace.video_files()
    missing = [video.video_id for video in videos if video.video_id not in files]
    if missing:
        raise OutsideSystemError("no_video", f"{len(missing)} videos are not here.", "Fetch them with `dvc pull`.")
    asked = [
        {
            "path": str(files[video.video_id]),
            "about": {"site": video.site if SITE.fullmatch(video.site) else "", "case": video.patient_id},
        }
        for video in videos
    ]
    private_folder(folder.parent)
    with temporary_folder(folder.parent) as draft:
        write_json(draft / "request.json", {"version": version.version, "videos": asked})
        child.run("observe_child.py", store.download(version), draft / "request.json", draft / "seen")
        if not list((draft / "seen").glob("*.parquet")):
            raise WrongUseError(
                "no_prediction_log",
                f"Version {version.version} was built before models kept a prediction log.",
                "Retrain, or compare with an earlier time: --against log.",
            )
        move_unless_there(draft / "seen", folder)


def _note(workspace: Workspace, report: MonitorReport) -> None:
    """An event of the ledger, unless the newest one about this version says the same."""
    subject = f"version {report.version}"
    data = {
        "source": report.source,
        "against": report.against,
        "figures": sorted(f"{one.site or 'no site'}: {one.figure}" for one in report.alarms),
        "action": report.params.on_alarm,
    }
    known = [
        entry.data for entry in ledger.read(workspace.ledger) if entry.event == "drifted" and entry.subject == subject
    ]
    if not known or known[-1] != data:
        ledger.append(workspace, actor="monitor", event="drifted", subject=subject, data=data)
