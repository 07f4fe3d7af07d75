"""Take the corpus in as one batch, and hold what became of each row against what should.

``make hostile`` prints the table. Nothing may crash, no file outside the workspace may change or be read, no
connection may be made, no good clip may be lost, and every row must be accounted for exactly once.
"""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hostile import clips, corpus
from hostile.corpus import Case
from pipelines import initialise, intake, settings
from pipelines.files import sha256_file
from pipelines.intake import quarantine
from pipelines.intake.batch import IntakeReport
from pipelines.locks import one_writer
from pipelines.video.clips import read_frames
from pipelines.workspace import Workspace

COLUMNS = ("path", "patient_id", "label", "domain", "site", "split", "mask", "consent", "sha256")
CAPS = {
    "max_pixels": 4096 * 4096,
    "max_frames": 4000,
    "max_minutes": 10.0,
    "max_bytes": 32_000_000,
    "max_decode_seconds": 20,
    "max_memory_mib": 512,
}


@dataclass(frozen=True)
class Outcome:
    case: Case
    fate: str
    frames_differ: bool = False

    @property
    def right(self) -> bool:
        return self.fate in self.case.fates and not self.frames_differ


def main() -> int:
    settings.apply()
    with tempfile.TemporaryDirectory() as place:
        os.environ["LCLSC_KEY_FILE"] = str(Path(place) / "patients.key")
        outcomes, faults = take_in(Path(place))
    show(outcomes, faults)
    return int(bool(faults) or not all(outcome.right for outcome in outcomes))


def take_in(
    place: Path, *, sample: int | None = None, seed: int = 0, empty: Path | None = None
) -> tuple[list[Outcome], list[str]]:
    """(what became of each case, what else went wrong); ``sample`` takes that many cases, by ``seed``.

    ``empty``: a new workspace to copy; without it one is made.
    """
    canary = _canary(place / "outside")
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.setblocking(False)
        (place / "workshop").mkdir()
        cases = corpus.everything(place / "workshop", canary, trap.getsockname()[1], seed)[:sample]
        batch = place / "batch"
        _write(batch, cases)
        workspace = _workspace(place / "workspace", empty)
        before = {folder: _snapshot(place / folder) for folder in ("outside", "batch")}
        with one_writer(workspace):
            report = intake.run(workspace, batch)
        faults = [f"{folder} was changed" for folder, was in before.items() if _snapshot(place / folder) != was]
        faults += ["something connected"] if _connected(trap) else []
    rows = {case.name: row for row, case in _numbered(batch, cases)}
    fates = _fates(report, workspace)
    faults += _unaccounted(report, rows, fates)
    outcomes = [_outcome(case, fates.get(rows[case.name], ("lost", ""))) for case in cases]
    faults += _lost_bytes(batch, workspace, cases, outcomes, canary)
    return outcomes, faults


def _canary(folder: Path) -> Path:
    """A good video that no row names: frames of it in the workspace mean that something was followed."""
    folder.mkdir()
    clips.write(folder / "canary.mp4", seed=999)
    return folder / "canary.mp4"


def _workspace(root: Path, empty: Path | None) -> Workspace:
    if empty is None:
        workspace = initialise.run(root, preset="cpu", remote=None)
    else:
        subprocess.run(["cp", "-a", str(empty), str(root)], check=True)
        workspace = Workspace.open(root)
    params = yaml.safe_load(workspace.params.read_text())
    params["intake"] |= {"labels": ["glioma", "healthy"]} | {
        name: cap for name, cap in CAPS.items() if name in params["intake"]
    }
    workspace.params.write_text(yaml.safe_dump(params, sort_keys=False))
    return workspace


def _write(batch: Path, cases: list[Case]) -> None:
    batch.mkdir()
    for case in cases:
        for content, path in ((case.content, case.path), (case.mask, case.row["mask"])):
            if content is None:
                continue
            target = batch / path
            if not target.parent.exists() and case.name != "linked-folder":
                target.parent.mkdir(parents=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                content(target)
    with (batch / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(case.row for case in cases)


def _numbered(batch: Path, cases: list[Case]) -> list[tuple[int, Case]]:
    """Rows are named by the line they end on; names with newlines make that more than one a row."""
    with (batch / "manifest.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return [(reader.line_num, case) for _, case in zip(reader, cases, strict=True)]


def _fates(report: IntakeReport, workspace: Workspace) -> dict[int, tuple[str, str]]:
    """row -> (fate, id). Rows that went in are those of which nothing is said."""
    fates = {error.row: (error.code, "") for error in report.errors}
    fates |= {item["row"]: (item["reason"], item["id"]) for item in report.quarantined}
    return fates


def _unaccounted(report: IntakeReport, rows: dict[str, int], fates: dict[int, tuple[str, str]]) -> list[str]:
    """Every row has exactly one fate, and all that have none went in."""
    said = Counter([error.row for error in report.errors] + [item["row"] for item in report.quarantined])
    silent = [name for name, row in rows.items() if row not in fates]
    fates |= {rows[name]: ("taken", "") for name in silent}
    several = [f"row {row} has {count} fates" for row, count in said.items() if count > 1 or row not in rows.values()]
    if len(silent) != len(report.taken) + len(report.known):
        several.append(f"{len(silent)} rows are silent, {len(report.taken)} taken, {len(report.known)} known")
    return several


def _outcome(case: Case, fate: tuple[str, str]) -> Outcome:
    return Outcome(case, fate[0])


def _lost_bytes(
    batch: Path, workspace: Workspace, cases: list[Case], outcomes: list[Outcome], canary: Path
) -> list[str]:
    """What was decoded lies in videos/ or quarantine/ byte for byte; what ffmpeg makes of it is what we read."""
    kept = {path.name.split(".")[0] for path in workspace.videos.iterdir()}
    aside = {record.quarantine_id: record for record in quarantine.listing(workspace)}
    faults = ["the canary was taken in"] if sha256_file(canary) in kept | set(aside) else []
    for case, outcome in zip(cases, outcomes, strict=True):
        if not isinstance(case.content, bytes):
            continue
        file = batch / case.path
        video_id = sha256_file(file)
        if outcome.fate == "taken":
            faults += [] if video_id in kept else [f"{case.name}: taken and not there"]
            if case.family in ("bits flipped", "good") and not _same_frames(workspace, video_id):
                faults.append(f"{case.name}: other frames than ffmpeg's")
        elif video_id in aside and aside[video_id].file:
            same = sha256_file(workspace.quarantine / aside[video_id].file) == video_id
            faults += [] if same else [f"{case.name}: changed in quarantine"]
    return faults


def _same_frames(workspace: Workspace, video_id: str) -> bool:
    """Against ffmpeg's own program, its luma plane expanded as the reader documents it."""
    if shutil.which("ffmpeg") is None:
        return True
    path = workspace.video_files()[video_id]
    ours = [frame.luma_HW for frame in read_frames(path)]
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-flags",
        "bitexact",
        "-idct",
        "simple",
        "-i",
        str(path),
        "-map",
        "0:v:0",
        "-fps_mode",
        "passthrough",
    ]
    raw = subprocess.run([*command, "-vf", "extractplanes=y", "-f", "rawvideo", "-"], capture_output=True, check=False)
    theirs = np.frombuffer(raw.stdout, np.uint8)
    if theirs.size != sum(luma.size for luma in ours):
        return False
    theirs = theirs.reshape(len(ours), *ours[0].shape)
    full_range = path.suffix == ".avi"
    return np.array_equal(np.stack(ours), theirs if full_range else _spread(theirs))


def _spread(limited: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """16..235 to 0..255, to the nearest; 219 is odd, so nothing lies half way."""
    return np.clip(np.rint((limited - 16.0) * 255 / 219), 0, 255).astype(np.uint8)


def _connected(trap: socket.socket) -> bool:
    try:
        trap.accept()
    except BlockingIOError:
        return False
    return True


def _snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file's kind, size and time of change, links not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def show(outcomes: list[Outcome], faults: list[str]) -> None:
    console = Console()
    table = Table(title=f"{len(outcomes)} hostile and broken inputs", title_justify="left")
    for column in ("family", "inputs", "taken in", "quarantined", "row errors", "wrong"):
        table.add_column(column, justify="left" if column == "family" else "right")
    row_errors = ("label_", "domain_", "split_", "site_", "consent_", "patient_", "sha256_", "path_")
    for family in dict.fromkeys(outcome.case.family for outcome in outcomes):
        these = [outcome for outcome in outcomes if outcome.case.family == family]
        taken = sum(outcome.fate == "taken" for outcome in these)
        errors = sum(outcome.fate.startswith(row_errors) for outcome in these)
        wrong = sum(not outcome.right for outcome in these)
        cells = (len(these), taken, len(these) - taken - errors, errors, wrong)
        table.add_row(family, *(str(cell) for cell in cells))
    console.print(table)
    reasons = Counter(outcome.fate for outcome in outcomes)
    console.print("  ".join(f"{fate} {count}" for fate, count in reasons.most_common()))
    for outcome in outcomes:
        if not outcome.right:
            console.print(
                f"wrong: {outcome.case.name}: {outcome.fate}, expected {sorted(outcome.case.fates)}", markup=False
            )
    for fault in faults:
        console.print(f"fault: {fault}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
