"""Near copies at intake: named, kept on one side of the split, and set aside where two sides would share one.

Keeps  .state/near_copies/<video_id>.npy   fingerprint.BLOB; what is missing there is computed from videos/ again
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import manifest
from pipelines.errors import LclscError, VideoError
from pipelines.files import write_bytes
from pipelines.intake.candidate import Candidate, Remark
from pipelines.intake.near_copy import Index, Match
from pipelines.video import clips, fingerprint
from pipelines.video.fingerprint import Blobs, Fingerprinter
from pipelines.video.frame import Frame
from pipelines.video.isolation import ANSWER_BYTES, KIB, run_isolated
from pipelines.workspace import Workspace, private_folder

PACKED_CHARACTERS = ANSWER_BYTES - 4 * KIB  # of a child's answer; the rest is for the other checks
FORMAT = 1  # raise it when the same clip no longer gives the same blobs


class Look:
    """In the child: the clip's blobs, packed."""

    def __init__(self) -> None:
        self.fingerprinter = Fingerprinter()

    def see(self, frame: Frame) -> None:
        self.fingerprinter.see(frame)

    def summary(self) -> str:
        return _packed_to_fit(self.fingerprinter.blobs())


class Judge:
    """Compares each clip with all that are in, and keeps the patients of copies together."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.store = Store(workspace)
        self.sides = Sides(manifest.read_splits(workspace.splits))
        self.patients: dict[str, str] = {}
        self.index: Index | None = None
        self.missing = 0
        self.answered: tuple[str, list[Match]] = ("", [])  # of the clip asked for last, until the index grows

    def judge(self, candidate: Candidate, summary: Any) -> Iterator[Remark]:
        """Remarks on each copy; VideoError where the copies and this patient stand on more than one side."""
        matches = self._matches(candidate.video_id, _unpacked(summary))
        self._require_one_side(candidate, matches)
        for match in matches:
            other = self.patients[match.video_id]
            same = other == candidate.patient_id
            note = f"Near copy of {match.video_id[:12]}, of {'the same' if same else 'another'} patient."
            yield Remark(code="near_copy", note=note, other=match.video_id, beside="" if same else other)
        if self.missing:
            note = f"Not compared with {self.missing} earlier videos: their files are not here (`dvc pull`)."
            yield Remark(code="near_copies_unknown", note=note)

    def taken(self, candidate: Candidate, summary: Any) -> None:
        blobs = _unpacked(summary)
        self.sides.decide(candidate.patient_id, candidate.split)
        for match in self._matches(candidate.video_id, blobs):
            self.sides.join(candidate.patient_id, self.patients[match.video_id])
        self.store.write(candidate.video_id, fingerprint.thinned(blobs))
        self._add(candidate.video_id, candidate.patient_id, fingerprint.thinned(blobs))

    def _matches(self, video_id: str, blobs: Blobs) -> list[Match]:
        """Searched once for a clip that is judged and then taken."""
        if self.answered[0] != video_id:
            self.answered = (video_id, self._filled().find(blobs))
        return self.answered[1]

    def _require_one_side(self, candidate: Candidate, matches: list[Match]) -> None:
        """All at once: a clip of an undecided patient may hold the frames of two clips on different sides."""
        here = self.sides.of(candidate.patient_id) or candidate.split
        copies = {self.sides.of(self.patients[match.video_id]): match.video_id for match in matches}
        stand = [f"{video_id}, which stands in {side}" for side, video_id in sorted(copies.items()) if side]
        if len({here, *copies} - {""}) > 1:
            own = f"; this one's patient stands in {here}" if here else ""
            raise VideoError(
                "near_copy_across_split",
                f"A near copy of {', and of '.join(stand)}{own}.",
                "Find out whose recording it is: the same frames cannot be on both sides. Patients never move.",
            )

    def _filled(self) -> Index:
        """The index over the manifest, loaded at the first question."""
        if self.index is None:
            self.index = Index()
            rows = manifest.read_videos(self.workspace.manifest)
            self.store.prune({row.video_id for row in rows})
            files = self.workspace.video_files() if rows else {}
            for row in rows:
                blobs = self.store.read(row.video_id, files.get(row.video_id))
                if blobs is None:
                    self.missing += 1
                else:
                    self._add(row.video_id, row.patient_id, blobs)
        return self.index

    def _add(self, video_id: str, patient_id: str, blobs: Blobs) -> None:
        assert self.index is not None
        self.patients[video_id] = patient_id
        self.index.add(video_id, blobs)
        self.answered = ("", [])


@dataclass
class Sides:
    """Patients who must stay together, and the side of the split where one of them is known to stand."""

    splits: dict[str, str]
    parents: dict[str, str] = field(default_factory=dict)

    def first(self, patient_id: str) -> str:
        while patient_id in self.parents:
            patient_id = self.parents[patient_id]
        return patient_id

    def of(self, patient_id: str) -> str:
        return self.splits.get(self.first(patient_id), "")

    def decide(self, patient_id: str, split: str) -> None:
        if split:
            self.splits.setdefault(self.first(patient_id), split)

    def join(self, patient_id: str, other: str) -> None:
        """ValueError for two who stand on different sides: what is judged first never gets here."""
        here, there = self.first(patient_id), self.first(other)
        split = self.of(here) or self.of(there)
        if self.of(there) not in ("", split):
            raise ValueError("patients of different sides cannot be joined")
        if here != there:
            self.parents[here] = there
            self.decide(there, split)


class Store:
    """Fingerprints on disk: of tissue and of nothing around it, and as private as the run state beside them."""

    def __init__(self, workspace: Workspace) -> None:
        self.folder = workspace.state / "near_copies" / f"{FORMAT}"

    def read(self, video_id: str, source: Path | None) -> Blobs | None:
        """As kept, or from the video again; None where neither is here or the video cannot be decoded any more."""
        path = self._path(video_id)
        if path.exists():
            return np.asarray(np.load(path, allow_pickle=False))
        if source is None:
            return None
        try:
            blobs = blobs_of(source)
        except LclscError:
            return None
        self.write(video_id, blobs)
        return blobs

    def write(self, video_id: str, blobs: Blobs) -> None:
        content = io.BytesIO()
        np.save(content, blobs, allow_pickle=False)
        private_folder(self.folder)
        write_bytes(self._path(video_id), content.getvalue())

    def prune(self, video_ids: set[str]) -> None:
        """Forget what the manifest does not name any more."""
        self.forget({path.stem for path in self.folder.glob("*.npy")} - video_ids)

    def forget(self, video_ids: set[str]) -> None:
        for video_id in video_ids:
            self._path(video_id).unlink(missing_ok=True)

    def _path(self, video_id: str) -> Path:
        return self.folder / f"{video_id}.npy"


def blobs_of(source: Path) -> Blobs:
    """As kept, from the video itself; VideoError where it cannot be decoded."""
    return fingerprint.thinned(_unpacked(run_isolated(fingerprint_of, source)))


def fingerprint_of(path: str) -> str:
    """In a child: the packed blobs of a clip that is in already."""
    look = Look()
    for frame in clips.read_frames(Path(path)):
        look.see(frame)
    return look.summary()


def _packed_to_fit(blobs: Blobs) -> str:
    """All blobs of a clip, or of a very long one those of every second frame, every third and so on."""
    text = _packed(blobs)
    frames = len(text) // PACKED_CHARACTERS
    while len(text) > PACKED_CHARACTERS and frames < len(blobs):
        frames += 1
        text = _packed(fingerprint.one_in(frames, blobs))
    return text


def _packed(blobs: Blobs) -> str:
    return base64.b64encode(zlib.compress(blobs.tobytes(), 1)).decode()


def _unpacked(text: str) -> Blobs:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), fingerprint.BLOB)
