"""Files on their way into videos/ and masks/: a batch's go in together, and out again if its tables never told of them.

Keeps   videos/.tmp-taken-*, masks/.tmp-taken-*   what was taken, until the batch is; swept like every other temporary
        .state/intake.json                        what an intake is about to add, from its first move to the manifest

Without that note nobody could tell what a killed intake left in videos/ from what somebody put there by hand, and the
one is removed and the other refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipelines import hand_edits, manifest, versioning
from pipelines.files import TEMPORARY_PREFIX, move_into_place, read_json, remove, write_bytes, write_json
from pipelines.workspace import Workspace, private_folder

STAGED = f"{TEMPORARY_PREFIX}taken-"


def place(folder: Path, name: str) -> Path:
    """Where a file waits that will be ``folder/name``; on the same disk, so that it is moved and not copied."""
    return private_folder(folder) / f"{STAGED}{name}"


def begin(workspace: Workspace, *, patients: Iterable[str], first_labels: bool) -> None:
    """Note what the batch adds, then move all that waits into its place."""
    folders = (workspace.videos, workspace.masks)
    moves = {path: folder / path.name.removeprefix(STAGED) for folder in folders for path in folder.glob(f"{STAGED}*")}
    names = sorted(str(target.relative_to(workspace.root)) for target in moves.values())
    write_json(_note(workspace), {"files": names, "patients": sorted(patients), "first_labels": first_labels})
    for path, target in moves.items():
        move_into_place(path, target)


def end(workspace: Workspace) -> None:
    """The manifest tells of the batch: nothing of it is taken back any more."""
    _note(workspace).unlink(missing_ok=True)


def require_untouched(workspace: Workspace) -> None:
    """For who tracks the folders anew: nothing that a killed intake left or a person put there may go along."""
    take_back(workspace)
    hand_edits.refuse(workspace)
    hand_edits.refuse_files(workspace)


def take_back(workspace: Workspace) -> None:
    """Undo what an intake did that was killed before it wrote the manifest. Holds the workspace.

    What the manifest tells of stays. A line of the ledger stays, too: the same batch, taken in again, goes on from it.
    """
    if not _note(workspace).exists():
        return
    begun = dict(read_json(_note(workspace)))
    rows = {video.video_id: video for video in manifest.read_videos(workspace.manifest)}
    with_mask = {video_id for video_id, video in rows.items() if video.mask_sha256}
    lost = [name for name in begun["files"] if _id_of(name) not in (rows if name.startswith("videos/") else with_mask)]
    for name in lost:
        remove(workspace.root / name)
    _leave_tables(workspace, begun, rows)
    if lost and versioning.changed_files(workspace, versioning.POINTERS):
        hand_edits.refuse_files(workspace)
        versioning.track(workspace, "videos", remote="identified")
        versioning.track(workspace, "masks")
    end(workspace)


def _leave_tables(workspace: Workspace, begun: dict[str, Any], rows: dict[str, manifest.Video]) -> None:
    """What is written before the manifest. A split that git holds stays: they are only ever added."""
    committed = manifest.parse_splits((versioning.file_at(workspace, "HEAD", "splits.csv") or b"").decode())
    kept = {video.patient_id for video in rows.values()} | committed.keys()
    splits = manifest.read_splits(workspace.splits)
    if lost := set(begun["patients"]) - kept:
        manifest.write_splits(workspace.splits, {name: side for name, side in splits.items() if name not in lost})
    ids = {_id_of(name) for name in begun["files"]} - rows.keys()
    origins = manifest.read_provenance(workspace.provenance)
    if any(row.video_id in ids for row in origins):
        manifest.write_provenance(workspace.provenance, [row for row in origins if row.video_id not in ids])
    if begun["first_labels"] and not rows and "params.yaml" not in versioning.open_edits(workspace):
        write_bytes(workspace.params, versioning.file_at(workspace, "HEAD", "params.yaml") or b"")


def _id_of(name: str) -> str:
    return Path(name).name.split(".")[0]


def _note(workspace: Workspace) -> Path:
    return workspace.state / "intake.json"
