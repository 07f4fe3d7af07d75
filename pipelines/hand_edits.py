"""Tables of the data that were edited by hand. Labels and splits have one writer, intake, and the ledger tells of it.

Intake notes what it takes in and corrects, then writes the tables, then commits; ``forget`` does too. So whatever
stands between the last commit and the tables is explained by the lines of the ledger behind that commit, also after a
kill, or somebody's editor was at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipelines import ledger, manifest, versioning
from pipelines.errors import WrongUseError
from pipelines.ledger import Entry
from pipelines.manifest import Video
from pipelines.workspace import Workspace

TABLES = ("manifest.csv", "splits.csv")
CORRECTED = ("relabelled", "corrected")


def refuse(workspace: Workspace) -> None:
    """WrongUseError where manifest.csv or splits.csv differ from the last commit, and the ledger does not say why."""
    edited = versioning.changed_files(workspace, TABLES)
    if edited and not _is_explained(workspace):
        raise WrongUseError(
            "tables_edited",
            f"{' and '.join(edited)} was changed by hand: no line of the ledger tells of it.",
            f"Restore it with `git checkout {' '.join(edited)}`; correct labels, domains and sites with "
            "`lclsc intake SRC --update`. A split never changes.",
        )


def _is_explained(workspace: Workspace) -> bool:
    committed = versioning.file_at(workspace, "HEAD", workspace.ledger.name) or b""
    content = workspace.ledger.read_bytes() if workspace.ledger.exists() else b""
    if not content.startswith(committed):
        return False
    since = ledger.parse(content[len(committed) :])
    videos, splits = manifest.read_videos(workspace.manifest), manifest.read_splits(workspace.splits)
    return _is_taken_in(videos, splits, since) or _is_committed(workspace, videos, splits, since)


def _is_taken_in(videos: Sequence[Video], splits: dict[str, str], since: Sequence[Entry]) -> bool:
    """The version that an intake noted; what it corrected itself is part of it, what was corrected later is not."""
    taken = [n for n, entry in enumerate(since) if entry.event == "taken_in"]
    if not taken:
        return False
    before = _without_corrections(videos, since[taken[-1] :])
    return since[taken[-1]].subject in {manifest.version_of(rows, splits) for rows in (before, videos)}


def _is_committed(
    workspace: Workspace, videos: Sequence[Video], splits: dict[str, str], since: Sequence[Entry]
) -> bool:
    """The committed rows but for corrections and who withdrew; splits of new patients are written before all else."""
    rows, sides = (versioning.file_at(workspace, "HEAD", name) for name in TABLES)
    if rows is None or sides is None:
        return False
    gone = {entry.subject for entry in since if entry.event == "withdrawn"}
    kept = {video for video in manifest.parse_videos(rows.decode()) if video.patient_id not in gone}
    found = {video for video in _without_corrections(videos, since) if video.patient_id not in gone}
    return found == kept and manifest.parse_splits(sides.decode()).items() <= splits.items()


def _without_corrections(videos: Sequence[Video], since: Sequence[Entry]) -> list[Video]:
    """The rows as they stood before what ``since`` corrected."""
    found = {video.video_id: video for video in videos}
    for entry in reversed(since):
        if entry.event in CORRECTED and entry.subject in found:
            was = {column: before for column, (before, _) in entry.data["changes"].items()}
            found[entry.subject] = replace(found[entry.subject], **was)
    return list(found.values())
