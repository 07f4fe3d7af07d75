"""Intake: check new videos, give them ids, record them.

Reads   <source>/manifest.csv and the files it names
Writes  videos/, masks/ (DVC), manifest.csv, splits.csv, provenance.csv, params.yaml: intake.labels (git),
        quarantine/, ledger.jsonl
Params  intake, split

The only module that sees a raw patient id. Everything content-addressed is written first and the manifest
last, so an intake that was killed is finished by running it again.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import (
    identity,
    incoming,
    ledger,
    manifest,
    mask_stack,
    params_file,
    progress,
    split,
    versioning,
)
from pipelines import params as parameters
from pipelines.clip_checks import Candidate, Panel, Survey
from pipelines.errors import VideoError
from pipelines.files import CHUNK_BYTES, TEMPORARY_PREFIX, read_json, sha256_file, write_json
from pipelines.incoming import IncomingVideo, RowError
from pipelines.manifest import Provenance, Video
from pipelines.video.isolation import Limits
from pipelines.workspace import Workspace, private_folder


@dataclass
class IntakeReport:
    """What became of each row."""

    taken: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)
    remarks: list[dict[str, Any]] = field(default_factory=list)
    new_labels: list[str] = field(default_factory=list)
    patients: dict[str, int] = field(default_factory=dict)
    data_version: str = ""

    def as_json(self) -> dict[str, Any]:
        status = "taken_in" if self.taken else "nothing_new"
        return {"schema": "intake/1", "status": status} | dataclasses.asdict(self)


def run(workspace: Workspace, source: Path) -> IntakeReport:
    """Take in what is new and good; report the rest. Holds the workspace (the caller has the lock)."""
    source = source.resolve()
    params = parameters.load(workspace.params)
    rows, errors = incoming.read(source, params.intake.labels)
    report = IntakeReport(errors=errors)
    book = _Book.open(workspace)
    with progress.track("intake", len(rows), "videos") as tracker:
        for row in rows:
            _take(workspace, book, row, report, published=_published(source, book.key))
            tracker.advance()
    if book.new_videos:
        _record(workspace, book, report)
    report.data_version = manifest.data_version(workspace.manifest, workspace.splits)
    return report


@dataclass
class _Book:
    """The tables in memory while a batch is taken in."""

    videos: dict[str, Video]
    splits: dict[str, str]
    provenance: dict[str, Provenance]
    key: identity.Key
    held_keys: list[identity.Key]
    panel: Panel
    wanted: dict[str, str] = field(default_factory=dict)
    new_videos: list[Video] = field(default_factory=list)

    @classmethod
    def open(cls, workspace: Workspace) -> _Book:
        videos = {video.video_id: video for video in manifest.read_videos(workspace.manifest)}
        key = identity.key_for(workspace.settings().get("key_id"), has_rows=bool(videos))
        return cls(
            videos=videos,
            splits=manifest.read_splits(workspace.splits),
            provenance={row.video_id: row for row in manifest.read_provenance(workspace.provenance)},
            key=key,
            held_keys=identity.load_keys(),
            panel=Panel(workspace),
        )

    def patient_id(self, raw_patient_id: str) -> str:
        """The pseudonym a known patient already has under any held key, else one under the workspace's."""
        candidates = [key.pseudonym(raw_patient_id) for key in self.held_keys]
        return next((known for known in candidates if known in self.splits), self.key.pseudonym(raw_patient_id))

    def accept(self, row: IncomingVideo, candidate: Candidate, seen: Survey, mask_sha256: str) -> None:
        """The clip is in: note it in every table, and tell the checks."""
        accepted = Video(
            video_id=candidate.video_id,
            patient_id=candidate.patient_id,
            site=row.site,
            domain=row.domain,
            label=row.label,
            mask_sha256=mask_sha256,
        )
        self.videos[accepted.video_id] = accepted
        self.new_videos.append(accepted)
        if row.split:
            self.wanted[accepted.patient_id] = row.split
        self.provenance[accepted.video_id] = Provenance(
            video_id=accepted.video_id,
            source_name_hmac=self.key.hmac(row.path.name, "source"),
            received_at=_now(),
            label_source="incoming manifest",
            consent=row.consent,
        )
        self.panel.taken(candidate, seen)


def _take(
    workspace: Workspace, book: _Book, row: IncomingVideo, report: IntakeReport, published: set[str] | None
) -> None:
    """One row: copy, hash, check, note. Wrong rows become errors, unreadable videos go to quarantine."""
    copy = private_folder(workspace.videos) / f"{TEMPORARY_PREFIX}incoming"
    try:
        video_id = _copy_and_hash(row.path, copy)
        problem = _row_problem(book, row, video_id, published)
        if problem:
            report.errors.append(problem)
        elif video_id in book.videos:
            report.known.append(video_id)
        else:
            report.remarks += _accept(workspace, book, row, video_id, copy)
            report.taken.append(video_id)
    except VideoError as error:
        _quarantine(workspace, row, video_id, copy, error)
        report.quarantined.append({"row": row.row, "video_id": video_id, "reason": error.code, "remedy": error.remedy})
    finally:
        copy.unlink(missing_ok=True)


def _copy_and_hash(source: Path, copy: Path) -> str:
    """Hash the bytes that are kept, while they are copied: what was named is what will be decoded."""
    sha256 = hashlib.sha256()
    with source.open("rb") as reader, copy.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            sha256.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return sha256.hexdigest()


def _row_problem(book: _Book, row: IncomingVideo, video_id: str, published: set[str] | None) -> RowError | None:
    """Conflicts with the row's own checksum, with what is recorded, and with the ledger of splits."""

    def wrong(column: str, value: str, message: str) -> RowError:
        return RowError(file="manifest.csv", row=row.row, column=column, value=value, message=message)

    if row.sha256 and row.sha256 != video_id:
        return wrong("sha256", row.sha256, f"the file has {video_id}")
    if published is not None and video_id not in published:
        return wrong("path", row.path.name, "is no published phantom; the published test key takes nothing else")
    patient_id = book.patient_id(row.raw_patient_id)
    split_now = book.splits.get(patient_id) or book.wanted.get(patient_id)
    if row.split and split_now and row.split != split_now:
        return wrong("split", row.split, f"this patient is in {split_now} already, and patients never move")
    recorded = book.videos.get(video_id)
    if recorded and recorded.label != row.label:
        return wrong("label", row.label, f"this video is recorded as {recorded.label!r}")
    if recorded and recorded.patient_id != patient_id:
        return wrong("patient_id", "", "this video is recorded for another patient")
    return None


def _accept(workspace: Workspace, book: _Book, row: IncomingVideo, video_id: str, copy: Path) -> list[dict[str, Any]]:
    """Decode once to the end, ask the checks, then keep file and mask under the video's id; returns remarks."""
    seen = book.panel.decode(copy, Limits())
    patient_id = book.patient_id(row.raw_patient_id)
    candidate = Candidate(
        video_id=video_id,
        patient_id=patient_id,
        label=row.label,
        split=book.splits.get(patient_id) or book.wanted.get(patient_id) or row.split,
        path=copy,
        frames=seen.frames,
        size_px=seen.size_px,
    )
    remarks = book.panel.judge(candidate, seen)
    mask_sha256 = _keep_mask(workspace, row, video_id, *seen[:2]) if row.mask else ""
    copy.replace(workspace.videos / f"{video_id}{row.path.suffix.lower()}")
    book.accept(row, candidate, seen, mask_sha256)
    return [{"row": row.row, "video_id": video_id} | remark.as_json() for remark in remarks]


def _keep_mask(workspace: Workspace, row: IncomingVideo, video_id: str, frames: int, size_px: tuple[int, int]) -> str:
    """Check the ground truth against its video and keep it; returns its SHA-256."""
    assert row.mask is not None
    masks = mask_stack.read(row.mask)
    shape = masks.shape[1:]
    if (len(masks), shape) != (frames, tuple(size_px)):
        raise VideoError(
            "mask_mismatch",
            f"The mask has {len(masks)} pages of {shape}; the video {frames} frames of {tuple(size_px)}.",
            "Export one mask page for each frame, at the video's size.",
        )
    target = workspace.masks / f"{video_id}.tif"
    mask_stack.write(target, masks)  # written anew: what else the sender's file says stays outside
    return sha256_file(target)


def _quarantine(workspace: Workspace, row: IncomingVideo, video_id: str, copy: Path, error: VideoError) -> None:
    """Set the file aside, never lose it, and say why in words and for machines."""
    folder = private_folder(workspace.quarantine)
    copy.replace(folder / f"{video_id}{row.path.suffix.lower()}")
    write_json(folder / f"{video_id}.json", {"video_id": video_id, **error.as_json()})


def _record(workspace: Workspace, book: _Book, report: IntakeReport) -> None:
    """DVC first, then the tables with the manifest last, then one commit and the ledger."""
    params = parameters.load(workspace.params)
    if not params.intake.labels:
        report.new_labels = sorted({video.label for video in book.new_videos})
        params_file.write(workspace.params, workspace.params, {"intake": {"labels": report.new_labels}})
    added = split.assign(book.splits, _labels_of(book.videos.values()), book.wanted, params.split)
    report.patients = dict(sorted(Counter(added.values()).items()))
    versioning.track(workspace, "videos", remote="identified")
    versioning.track(workspace, "masks")
    write_json(workspace.marker, workspace.settings() | {"key_id": book.key.key_id})
    manifest.write_splits(workspace.splits, book.splits | added)
    manifest.write_provenance(workspace.provenance, book.provenance.values())
    version = manifest.version_of(book.videos.values(), book.splits | added)
    _note(workspace, book, version)
    manifest.write_videos(workspace.manifest, book.videos.values())
    message = f"Take in {len(book.new_videos)} videos: data version {version}"
    versioning.commit(workspace, (*versioning.OWN_INPUTS, "ledger.jsonl"), message)


def _note(workspace: Workspace, book: _Book, version: str) -> None:
    """Before the manifest names the videos: an intake killed in between is noted once, and not forgotten."""
    noted = ((entry.event, entry.subject) for entry in ledger.read(workspace.ledger))
    if ("taken_in", version) not in noted:
        videos = sorted(video.video_id for video in book.new_videos)
        patients = len({video.patient_id for video in book.new_videos})
        data = {"videos": videos, "patients": patients}
        ledger.append(workspace, actor="intake", event="taken_in", subject=version, data=data)


def _labels_of(videos: Iterable[Video]) -> dict[str, set[str]]:
    labels: dict[str, set[str]] = {}
    for video in videos:
        labels.setdefault(video.patient_id, set()).add(video.label)
    return labels


def _published(source: Path, key: identity.Key) -> set[str] | None:
    """Under the published test key, the only videos allowed in; None under any other key."""
    if key.key_id != identity.PUBLISHED_TEST_KEY_ID:
        return None
    listing = source / "synth.json"
    return set(read_json(listing)["videos"]) if listing.exists() else set()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
