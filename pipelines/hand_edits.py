"""Tables of the data that were edited by hand. Labels and splits have two writers, intake and ``forget``.

Each notes in the ledger which data version the tables will have, before it writes them. So tables of a version that
nobody noted were written by somebody's editor; also after a kill, whoever commits them.
"""

from __future__ import annotations

from pipelines import manifest, versioning
from pipelines.errors import LclscError, StageError
from pipelines.evidence.ledger_events import data_versions, entries_of
from pipelines.workspace import Workspace

TABLES = ("manifest.csv", "splits.csv")


def refuse(workspace: Workspace, *, finishing: bool = False) -> None:
    """StageError where manifest.csv or splits.csv differ from the last commit and no line of the ledger tells of it.

    Where an intake was killed between the two, only another one (``finishing``) goes on.
    """
    versioning.require_kept_lines(workspace)
    edited = versioning.changed_files(workspace, TABLES)
    if not edited or _version(workspace) in _told(workspace):
        return
    if "manifest.csv" not in edited and _has_only_new_splits(workspace):
        if finishing:
            return
        raise StageError("intake_unfinished", "An intake was killed half way.", "Run the same `lclsc intake` again.")
    raise StageError(
        "tables_edited",
        f"Changed by hand: {' and '.join(edited)}. No line of the ledger tells of it.",
        f"Restore it with `git checkout {' '.join(edited)}`; correct labels, domains and sites with "
        "`lclsc intake SRC --update`. A split never changes.",
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


def _has_only_new_splits(workspace: Workspace) -> bool:
    """No committed split has moved: intake writes those of new patients first, and the manifest behind them."""
    committed = manifest.parse_splits((versioning.file_at(workspace, "HEAD", "splits.csv") or b"").decode())
    try:
        return committed.items() <= manifest.read_splits(workspace.splits).items()
    except (LclscError, OSError, ValueError):
        return False
