"""Intake: check new videos, give them ids, record them.

Reads   <source>/manifest.csv and the files it names
Writes  videos/, masks/ (DVC), manifest.csv, splits.csv, provenance.csv, params.yaml: intake.labels (git),
        quarantine/, ledger.jsonl
Params  intake, split

Raw patient ids end here: book.py turns them into pseudonyms. Everything content-addressed is written first
and the manifest last, so an intake that was killed is finished by running it again.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
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
    quarantine,
    sources,
    split,
    versioning,
    video,
)
from pipelines import params as parameters
from pipelines.book import Book, Described, Refused, now
from pipelines.clip_checks import Candidate, Panel, Remark
from pipelines.errors import StageError, VideoError, WrongUseError
from pipelines.files import TEMPORARY_PREFIX, digest, move_into_place, sha256_file, write_json
from pipelines.incoming import IncomingVideo, NamedAside, RowError
from pipelines.manifest import Video
from pipelines.sources import Source
from pipelines.video.isolation import Limits
from pipelines.workspace import Workspace, private_folder


@dataclass
class IntakeReport:
    """What became of each row."""

    taken: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    corrected: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)
    remarks: list[dict[str, Any]] = field(default_factory=list)
    new_labels: list[str] = field(default_factory=list)
    patients: dict[str, int] = field(default_factory=dict)
    data_version: str = ""
    stopped: bool = False

    def as_json(self) -> dict[str, Any]:
        changed = self.taken or self.corrected
        return {"schema": "intake/1", "status": "taken_in" if changed else "nothing_new"} | dataclasses.asdict(self)

    @property
    def clean(self) -> bool:
        return not (self.errors or self.quarantined or self.stopped)


@dataclass
class _Batch:
    """What is at hand while the rows of one batch are taken in."""

    workspace: Workspace
    source: Source
    params: parameters.Params
    book: Book
    panel: Panel
    report: IntakeReport
    update: bool = False
    published: set[str] | None = None

    @classmethod
    def open(cls, workspace: Workspace, source: Source, *, update: bool = False) -> _Batch:
        params, book = parameters.load(workspace.params), Book.open(workspace)
        published = _published(source, book.key)
        panel, report = Panel(workspace), IntakeReport()
        return cls(workspace, source, params, book, panel, report, update, published)

    @property
    def copy(self) -> Path:
        return private_folder(self.workspace.videos) / f"{TEMPORARY_PREFIX}incoming"

    @property
    def mask_copy(self) -> Path:
        return private_folder(self.workspace.videos) / f"{TEMPORARY_PREFIX}incoming-mask"


def run(
    workspace: Workspace, place: Path | str, *, update: bool = False, stop: Callable[[], bool] = lambda: False
) -> IntakeReport:
    """Take in what is new and good; report the rest. Holds the workspace (the caller has the lock).

    ``update`` corrects label, domain and site of known videos; ``stop`` is asked before each video.
    """
    batch = _Batch.open(workspace, sources.of(place), update=update)
    found = incoming.read(batch.source, batch.params.intake.labels)
    batch.report.errors += found.errors
    named = {_set_name_aside(batch, aside) for aside in found.aside}
    with progress.track("intake", len(found.rows), "videos") as tracker:
        for row in found.rows:
            if stop():
                batch.report.stopped = True
                break
            named.add(_take(batch, row))
            tracker.advance()
    _record(batch)
    if not batch.report.stopped:
        _forget_mended(batch, named)
    return batch.report


def release(workspace: Workspace, prefix: str, reason: str) -> IntakeReport:
    """Take a clip out of quarantine after all. VideoError when it still cannot be decoded, or must stay."""
    record = quarantine.find(workspace, prefix)
    if not record.file:
        raise WrongUseError(
            "not_kept", f"This row's file was not taken over: {record.cause}", f"{record.remedy} Then run intake again."
        )
    batch = _Batch.open(workspace, sources.LocalFolder(workspace.quarantine))
    described = Described(**record.row)
    try:
        _release(batch, record, described)
    except Refused as refused:
        raise StageError("contradiction", f"{refused.error.column}: {refused.error.message}.", "Correct it.") from None
    finally:
        _clear(batch)
    _record(batch, released={record.quarantine_id: {"reason": reason, "was": record.reason}})
    quarantine.discard(workspace, record)
    return batch.report


def _release(batch: _Batch, record: quarantine.Record, described: Described) -> None:
    video_id = sources.copy(batch.source, record.file, batch.copy)
    if video_id != record.quarantine_id:
        raise StageError("quarantine_changed", "The file in quarantine is not the one set aside.", "Restore it.")
    batch.book.require_consistent(0, described, video_id, update=False)
    with_mask = bool(record.mask) and not record.reason.startswith("mask_")
    if with_mask:
        sources.copy(batch.source, record.mask, batch.mask_copy)
    suffix = Path(record.file).suffix
    remarks = _accept(batch, described, video_id, suffix, with_mask=with_mask, waived=record.reason)
    if record.mask and not with_mask:
        remarks.append(Remark(code="without_mask", note="Taken in without its ground truth, which does not fit."))
    batch.report.remarks += [{"row": 0, "video_id": video_id} | remark.as_json() for remark in remarks]
    batch.report.taken.append(video_id)
    batch.report.released.append(video_id)


# --- one row ---------------------------------------------------------------------------------------


def _take(batch: _Batch, row: IncomingVideo) -> str:
    """One row: copy, hash, check, note. Wrong rows become errors, bad files go to quarantine; returns the id there."""
    described = batch.book.describe(row, batch.source.name)
    try:
        video_id = _copied(batch, row, "path", row.path, batch.copy)
    except Refused as refused:
        batch.report.errors.append(refused.error)
        return ""
    except VideoError as error:
        return _set_name_aside(batch, NamedAside(row=row.row, path=row.path, error=error))
    try:
        return _weigh(batch, row, described, video_id)
    except Refused as refused:
        batch.report.errors.append(refused.error)
        return ""
    finally:
        _clear(batch)


def _weigh(batch: _Batch, row: IncomingVideo, described: Described, video_id: str) -> str:
    """A copied file: known, in quarantine already, set aside now, or taken in."""
    _require_named_bytes(batch, row, video_id)
    batch.book.require_consistent(row.row, described, video_id, update=batch.update)
    if video_id in batch.book.videos:
        corrected = batch.update and batch.book.correct(video_id, described)
        (batch.report.corrected if corrected else batch.report.known).append(video_id)
        return ""
    try:
        mask_sha256 = _copied(batch, row, "mask", row.mask, batch.mask_copy) if row.mask else ""
    except VideoError as error:
        return _set_name_aside(batch, NamedAside(row=row.row, path=row.mask, error=error))
    attempt = _attempt(batch, mask_sha256)
    held = quarantine.get(batch.workspace, video_id)
    if held and held.attempt == attempt:
        batch.report.quarantined.append(_noted(row.row, held, again=True))
        return video_id
    try:
        remarks = _accept(batch, described, video_id, _suffix(row.path), with_mask=bool(row.mask))
    except VideoError as error:
        return _set_bytes_aside(batch, row, described, video_id, attempt, error)
    remarks += _same_name(batch.book, described)
    batch.report.remarks += [{"row": row.row, "video_id": video_id} | remark.as_json() for remark in remarks]
    batch.report.taken.append(video_id)
    if held:
        quarantine.discard(batch.workspace, held)
    return ""


def _copied(batch: _Batch, row: IncomingVideo, column: str, path: str, target: Path) -> str:
    """SHA-256 of the copy; Refused where there is no such file."""
    try:
        return sources.copy(batch.source, path, target)
    except (FileNotFoundError, NotADirectoryError):
        raise _refused(row, column, path, "path_missing", "does not exist") from None


def _require_named_bytes(batch: _Batch, row: IncomingVideo, video_id: str) -> None:
    if row.sha256 and row.sha256 != video_id:
        raise _refused(row, "sha256", row.sha256, "sha256_differs", f"the file has {video_id}")
    if batch.published is not None and video_id not in batch.published:
        message = "is no published phantom; the published test key takes nothing else"
        raise _refused(row, "path", row.path, "not_published", message)


def _refused(row: IncomingVideo, column: str, value: str, code: str, message: str) -> Refused:
    return Refused(RowError(row=row.row, column=column, value=value, code=code, message=message))


def _accept(
    batch: _Batch, described: Described, video_id: str, suffix: str, *, with_mask: bool, waived: str = ""
) -> list[Remark]:
    """Decode once to the end, ask the checks, then keep file and mask under the video's id."""
    seen = batch.panel.decode(batch.copy, Limits())
    candidate = Candidate(
        video_id=video_id,
        patient_id=described.patient_id,
        label=described.label,
        split=batch.book.split_of(described),
        path=batch.copy,
        frames=seen.frames,
        size_px=seen.size_px,
    )
    remarks = batch.panel.judge(candidate, seen, waived=waived)
    shape = (seen.frames, *seen.size_px)
    mask_sha256 = _keep_mask(batch, video_id, shape) if with_mask else ""
    move_into_place(batch.copy, batch.workspace.videos / f"{video_id}{suffix}")
    batch.book.accept(video_id, described, mask_sha256)
    batch.panel.taken(candidate, seen)
    return remarks


def _keep_mask(batch: _Batch, video_id: str, shape_FHW: tuple[int, int, int]) -> str:
    """Check the ground truth against its video and keep it; returns its SHA-256."""
    target = batch.workspace.masks / f"{video_id}.tif"
    mask_stack.rewrite(batch.mask_copy, target, shape_FHW)  # written anew: what else the file says stays outside
    return sha256_file(target)


def _same_name(book: Book, described: Described) -> list[Remark]:
    others = [other[:12] for other in book.same_name_elsewhere(described)]
    note = f"This patient's {', '.join(others)} came under the same name in another batch."
    return [Remark(code="same_name_elsewhere", note=note)] if others else []


def _suffix(path: str) -> str:
    """Readers go by content: the suffix is kept for people, and only where it is one of a video."""
    suffix = Path(path).suffix.lower()
    return suffix if suffix in incoming.VIDEO_SUFFIXES else ""


# --- setting aside ---------------------------------------------------------------------------------


def _set_bytes_aside(
    batch: _Batch, row: IncomingVideo, described: Described, video_id: str, attempt: str, error: VideoError
) -> str:
    record = quarantine.Record(
        quarantine_id=video_id,
        at=now(),
        batch=batch.book.batch_id(batch.source.name),
        path=row.path,
        file=quarantine.file_name(video_id, _suffix(row.path)),
        mask=quarantine.file_name(video_id, ".tif", mask=True) if row.mask else "",
        attempt=attempt,
        row=described.as_json(),
        **quarantine.reason_of(error),
    )
    quarantine.set_aside(batch.workspace, record, batch.copy, batch.mask_copy if row.mask else None)
    batch.report.quarantined.append(_noted(row.row, record))
    return video_id


def _set_name_aside(batch: _Batch, aside: NamedAside) -> str:
    """Its file is not touched: the record says where the fault is."""
    batch_id = batch.book.batch_id(batch.source.name)
    quarantine_id = quarantine.named_id(batch_id, aside.path)
    record = quarantine.get(batch.workspace, quarantine_id)
    again = record is not None and record.reason == aside.error.code
    if record is None or not again:
        reason = quarantine.reason_of(aside.error)
        record = quarantine.Record(
            quarantine_id=quarantine_id,
            at=now(),
            batch=batch_id,
            path=aside.path,
            file="",
            mask="",
            attempt="",
            row={},
            **reason,
        )
        quarantine.set_aside(batch.workspace, record)
    batch.report.quarantined.append(_noted(aside.row, record, again=again))
    return quarantine_id


def _noted(row: int, record: quarantine.Record, *, again: bool = False) -> dict[str, Any]:
    return {
        "row": row,
        "id": record.quarantine_id,
        "reason": record.reason,
        "cause": record.cause,
        "remedy": record.remedy,
        "again": again,
    }


def _attempt(batch: _Batch, mask_sha256: str) -> str:
    """What decides whether the same bytes may fare otherwise this time."""
    caps = batch.params.intake.model_dump(exclude={"labels"})
    return digest({"decoder": video.decoder_identity(), "caps": caps, "mask": mask_sha256})


def _forget_mended(batch: _Batch, named: set[str]) -> None:
    """Records without bytes of this batch whose row is gone or good now."""
    batch_id = batch.book.batch_id(batch.source.name)
    for record in quarantine.listing(batch.workspace):
        if record.quarantine_id in batch.book.videos or (
            not record.file and record.batch == batch_id and record.quarantine_id not in named
        ):
            quarantine.discard(batch.workspace, record)


def _clear(batch: _Batch) -> None:
    batch.copy.unlink(missing_ok=True)
    batch.mask_copy.unlink(missing_ok=True)


# --- the record ------------------------------------------------------------------------------------


def _record(batch: _Batch, released: dict[str, dict[str, str]] | None = None) -> None:
    """DVC first, then the tables with the manifest last, then one commit and the ledger."""
    workspace, book = batch.workspace, batch.book
    if book.new_videos or book.corrections:
        added = _new_splits(batch) if book.new_videos else {}
        if book.new_videos:
            versioning.track(workspace, "videos", remote="identified")
            versioning.track(workspace, "masks")
        write_json(workspace.marker, workspace.settings() | {"key_id": book.key.key_id})
        manifest.write_splits(workspace.splits, book.splits | added)
        manifest.write_provenance(workspace.provenance, book.provenance.values())
        version = manifest.version_of(book.videos.values(), book.splits | added)
        _note(batch, version, released or {})
        manifest.write_videos(workspace.manifest, book.videos.values())
        what = [f"take in {len(book.new_videos)} videos"] if book.new_videos else []
        what += [f"correct {len(book.corrections)} videos"] if book.corrections else []
        message = f"{' and '.join(what).capitalize()}: data version {version}"
        versioning.commit(workspace, (*versioning.OWN_INPUTS, "ledger.jsonl"), message)
    batch.report.data_version = manifest.data_version(workspace.manifest, workspace.splits)


def _new_splits(batch: _Batch) -> dict[str, str]:
    """Splits of new patients; the first batch's labels become the allowed ones."""
    book, params = batch.book, batch.params
    if not params.intake.labels:
        batch.report.new_labels = sorted({video.label for video in book.new_videos})
        changes = {"intake": {"labels": batch.report.new_labels}}
        params_file.write(batch.workspace.params, batch.workspace.params, changes)
    added = split.assign(book.splits, _labels_of(book.videos.values()), book.wanted, params.split)
    batch.report.patients = dict(sorted(Counter(added.values()).items()))
    return added


def _note(batch: _Batch, version: str, released: dict[str, dict[str, str]]) -> None:
    """Before the manifest names the videos: an intake killed in between is noted once, and not forgotten."""
    book = batch.book
    events: list[tuple[str, str, dict[str, Any]]] = []
    if book.new_videos:
        videos = sorted(video.video_id for video in book.new_videos)
        patients = len({video.patient_id for video in book.new_videos})
        events.append(("taken_in", version, {"videos": videos, "patients": patients}))
    for video_id, data in sorted(released.items()):
        events.append(("released", video_id, dict(data)))
    for video_id, changes in sorted(book.corrections.items()):
        events.append(("relabelled" if "label" in changes else "corrected", video_id, {"changes": changes}))
    last = {(entry.event, entry.subject): entry.data for entry in ledger.read(batch.workspace.ledger)}
    for event, subject, data in events:
        if last.get((event, subject)) != data:
            ledger.append(batch.workspace, actor="intake", event=event, subject=subject, data=data)


def _labels_of(videos: Iterable[Video]) -> dict[str, set[str]]:
    labels: dict[str, set[str]] = {}
    for one in videos:
        labels.setdefault(one.patient_id, set()).add(one.label)
    return labels


def _published(source: Source, key: identity.Key) -> set[str] | None:
    """Under the published test key, the only videos allowed in; None under any other key."""
    if key.key_id != identity.PUBLISHED_TEST_KEY_ID:
        return None
    import json

    try:
        with source.open("synth.json") as file:
            return set(json.loads(file.read())["videos"])
    except FileNotFoundError:
        return set()
