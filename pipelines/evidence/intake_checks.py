"""Do manifest and splits of a commit say what the ledger tells of them? A row that was edited by hand does not.

An event ``taken_in`` holds the data version of its intake, which is a hash over every row: the commit in the
history that has these rows is what the ledger vouches for. Corrections and withdrawals that it tells of since
are taken over from there. Rows that no event speaks of are passed over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace

from pipelines import versioning
from pipelines.errors import LclscError
from pipelines.evidence.check import Check, Problem, checked, differing
from pipelines.evidence.commit import Commit
from pipelines.evidence.ledger_events import CORRECTIONS, sound
from pipelines.ledger import Entry
from pipelines.manifest import Video

TABLES = ("manifest.csv", "splits.csv")


@dataclass
class Told:
    """Rows as the ledger tells them."""

    videos: dict[str, Video] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)

    def take_in(self, state: Commit, video_ids: list[str]) -> None:
        """A patient's first split is the one that stays."""
        for video in (state.videos[video_id] for video_id in video_ids if video_id in state.videos):
            self.videos[video.video_id] = video
            if video.patient_id in state.splits:
                self.splits.setdefault(video.patient_id, state.splits[video.patient_id])

    def correct(self, video_id: str, changes: dict[str, list[str]]) -> None:
        video = self.videos.get(video_id)
        if video is not None:
            new = {column: after for column, (_, after) in changes.items() if column in asdict(video)}
            self.videos[video_id] = replace(video, **new)

    def withdraw(self, patient_id: str) -> None:
        self.videos = {name: video for name, video in self.videos.items() if video.patient_id != patient_id}


def check_rows(commit: Commit) -> Iterator[Check]:
    told = _told(commit)
    of = f"{len(told.videos)} videos and {len(told.splits)} patients that the ledger tells of"
    yield from checked("rows_as_taken", of, _row_problems(commit, told))


def _told(commit: Commit) -> Told:
    """By the ledger as it was committed with the tables last: a later event may be one whose rows are not there yet."""
    told = Told()
    history = versioning.commits_touching(commit.workspace, TABLES, until=commit.sha)
    if not history:
        return told
    entries = sound(Commit(commit.workspace, history[0]).read("ledger.jsonl") or b"")
    states = _states([Commit(commit.workspace, sha) for sha in history], entries)
    for entry in entries:
        if entry.event == "taken_in" and entry.subject in states:
            told.take_in(states[entry.subject], entry.data.get("videos", []))
        elif entry.event in CORRECTIONS:
            told.correct(entry.subject, entry.data.get("changes", {}))
        elif entry.event == "withdrawn":
            told.withdraw(entry.subject)
    return told


def _states(history: list[Commit], entries: list[Entry]) -> dict[str, Commit]:
    """data version -> a commit that has it, of those that intake noted."""
    wanted = {entry.subject for entry in entries if entry.event == "taken_in"}
    states: dict[str, Commit] = {}
    for commit in history:
        with contextlib.suppress(LclscError):  # one whose tables cannot be read vouches for nothing
            if commit.data_version in wanted:
                states[commit.data_version] = commit
    return states


def _row_problems(commit: Commit, told: Told) -> Iterator[Problem]:
    for video_id, expected in sorted(told.videos.items()):
        name, found = f"manifest.csv: video {video_id[:12]}", commit.videos.get(video_id)
        if found is None:
            yield Problem(object=name, expected="a row, as taken in", found="missing")
            continue
        for column, value in asdict(expected).items():
            yield from differing(f"{name}, {column}", value, getattr(found, column))
    for patient_id, split in sorted(told.splits.items()):
        yield from differing(f"splits.csv: patient {patient_id}, split", split, commit.splits.get(patient_id))
