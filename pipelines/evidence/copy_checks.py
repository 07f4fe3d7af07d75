"""Do the splits share a recording under two names? Near copies of a video may stand on one side only.

Fingerprints are those that intake keeps; a lost one is computed from the video's own bytes, and not kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from pipelines.errors import LclscError
from pipelines.evidence.check import Check, Problem, checked
from pipelines.evidence.commit import Commit
from pipelines.evidence.object_checks import Sample
from pipelines.evidence.pixel_checks import fetched
from pipelines.intake.near_copy import Index
from pipelines.intake.near_copy_check import Store, blobs_of
from pipelines.video import fingerprint
from pipelines.video.fingerprint import Blobs

NAME = "patients_disjoint"
MOST = 200
"""Videos that are looked for among all, unless ``--deep``: the time grows with the square of their number."""


def check_copies(commit: Commit, *, withdrawn: Collection[str], sample: Sample, deep: bool) -> Iterator[Check]:
    """Each video of validation and test among all: of two that stand on different sides, one is such a video."""
    rows = {row["video_id"]: row for row in commit.tables if row["patient_id"] not in withdrawn}
    held_out = sorted(video_id for video_id, row in rows.items() if row["split"] != "train")
    asked = Sample(size=None if deep else min(MOST, sample.size or MOST), seed=sample.seed).of(held_out)
    of = f"{len(asked)} of {len(held_out)} videos of validation and test, looked for as near copies among {len(rows)}"
    yield from checked(NAME, of, _problems(commit, rows, asked))


def _problems(commit: Commit, rows: Mapping[str, Mapping[str, str]], asked: list[str]) -> Iterator[Problem]:
    found = {video_id: _blobs(commit, video_id) for video_id in rows}
    index = Index()
    for video_id, blobs in found.items():
        if blobs is None:
            yield Problem(object=f"video {video_id}", expected="a fingerprint", found="no intact video", unknown=True)
        else:
            index.add(video_id, blobs)
    told: set[frozenset[str]] = set()
    for video_id in asked:
        blobs = found[video_id]
        for match in [] if blobs is None else index.find(blobs):
            here, there = rows[video_id]["split"], rows[match.video_id]["split"]
            pair = frozenset((video_id, match.video_id))
            if here != there and pair not in told:
                told.add(pair)
                other = f"a near copy of {match.video_id}, in {there}"
                yield Problem(object=f"video {video_id}, in {here}", expected="on one side only", found=other)


def _blobs(commit: Commit, video_id: str) -> Blobs | None:
    try:
        kept = Store(commit.workspace).read(video_id, None)
    except (ValueError, OSError):
        kept = None
    if kept is not None and kept.dtype == fingerprint.BLOB:
        return kept
    with tempfile.TemporaryDirectory(prefix="lclsc-audit-") as folder:
        source = fetched(commit, Path(folder), f"videos/{video_id}")
        try:
            return None if source is None else blobs_of(source)
        except LclscError:
            return None
