"""Were manifest and splits of a commit written by intake? A row that was edited by hand was not.

Whoever writes the tables notes the data version that they will have, a hash over every row, in the ledger.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import asdict

from pipelines import versioning
from pipelines.errors import LclscError
from pipelines.evidence.check import Check, Problem, checked, differing
from pipelines.evidence.commit import Commit
from pipelines.evidence.ledger_events import data_versions, entries_of, sound, tells_every_version
from pipelines.hand_edits import TABLES

MOST_COMMITS = 100
"""To look back for the tables that were edited; the finding itself needs none."""


def check_rows(commit: Commit) -> Iterator[Check]:
    """By the ledger of the commit and of today: a kill may leave either behind the other."""
    own = sound(commit.read(commit.workspace.ledger.name) or b"")
    noted = data_versions(own) | data_versions(entries_of(commit.workspace))
    of = f"data version {commit.data_version}"
    is_told = commit.data_version in noted or not tells_every_version(own)
    yield from checked("rows_as_taken", of, [] if is_told else _edits(commit, noted))


def _edits(commit: Commit, noted: Collection[str]) -> Iterator[Problem]:
    """Row by row against the newest tables before that the ledger tells of, where they are found."""
    before = _last_told(commit, noted)
    if before is None:
        expected = "tables of a data version that the ledger tells of"
        yield Problem(object=" and ".join(TABLES), expected=expected, found=commit.data_version)
        return
    for video_id in sorted(before.videos.keys() | commit.videos.keys()):
        name = f"manifest.csv: video {video_id[:12]}"
        was, now = before.videos.get(video_id), commit.videos.get(video_id)
        if was is None or now is None:
            yield from differing(name, "a row" if was else "no row", "a row" if now else "no row")
            continue
        for column, value in asdict(was).items():
            yield from differing(f"{name}, {column}", value, getattr(now, column))
    for patient_id in sorted(before.splits.keys() | commit.splits.keys()):
        was_in, is_in = before.splits.get(patient_id), commit.splits.get(patient_id)
        yield from differing(f"splits.csv: patient {patient_id}, split", was_in, is_in)


def _last_told(commit: Commit, noted: Collection[str]) -> Commit | None:
    for sha in versioning.commits_touching(commit.workspace, TABLES, until=commit.sha)[:MOST_COMMITS]:
        earlier = Commit(commit.workspace, sha)
        with contextlib.suppress(LclscError):  # one whose tables cannot be read vouches for nothing
            if earlier.data_version in noted:
                return earlier
    return None
