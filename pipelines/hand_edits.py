"""Data that were edited by hand. Tables and folders have two writers, intake and ``forget``.

Each notes in the ledger which data version the tables will have, before it writes them. So tables of a version that
nobody noted were written by somebody's editor; also after a kill, whoever commits them.
"""

from __future__ import annotations

import json

from pipelines import manifest, object_stores, versioning
from pipelines.errors import LclscError, StageError, WrongUseError
from pipelines.evidence.ledger_events import data_versions, entries_of
from pipelines.workspace import Workspace

TABLES = ("manifest.csv", "splits.csv")


def refuse(workspace: Workspace) -> None:
    """StageError where manifest.csv or splits.csv differ from the last commit and no line of the ledger tells of it.

    Splits without the manifest that an intake was about to write are taken back before (``staging``).
    """
    versioning.require_kept_lines(workspace)
    edited = versioning.changed_files(workspace, TABLES)
    if not edited or _version(workspace) in _told(workspace):
        return
    raise StageError(
        "tables_edited",
        f"Changed by hand: {' and '.join(edited)}. No line of the ledger tells of it.",
        f"Restore it with `git checkout {' '.join(edited)}`; correct labels, domains and sites with "
        "`lclsc intake SRC --update`. A split never changes.",
    )


def refuse_files(workspace: Workspace) -> None:
    """WrongUseError where a file lies in videos/ or masks/ that nobody took in: tracked anew, it would get in."""
    for folder in (workspace.videos, workspace.masks):
        listing = object_stores.cache(workspace).read_intact(versioning.pointer_md5(workspace, folder.name))
        if listing is None:
            continue  # a clone that has not pulled yet
        known = {entry["relpath"].split("/")[0] for entry in json.loads(listing)}
        found = sorted(
            path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name not in known
        )
        if found:
            raise WrongUseError(
                "videos_changed",
                f"The folder {folder.name}/ was changed by hand: {len(found)} in it were never taken in.",
                f"Move what `dvc diff` calls added out of {folder.name}/, and take videos in with `lclsc intake`.",
            )


def _told(workspace: Workspace) -> set[str]:
    """Data versions that the ledger or the last commit vouches for."""
    rows, splits = (versioning.file_at(workspace, "HEAD", name) or b"" for name in TABLES)
    told = data_versions(entries_of(workspace))
    if rows and splits:
        told.add(manifest.version_of(manifest.parse_videos(rows.decode()), manifest.parse_splits(splits.decode())))
    return told


def _version(workspace: Workspace) -> str | None:
    """None where the tables cannot be read."""
    try:
        return manifest.data_version(workspace.manifest, workspace.splits)
    except (LclscError, OSError, ValueError):
        return None
