"""Intake: check new videos, give them ids, record them.

Reads   <source>/manifest.csv and the files it names
Writes  videos/, masks/ (DVC), manifest.csv, splits.csv, provenance.csv, params.yaml: intake.labels (git),
        quarantine/, ledger.jsonl
Params  intake, split

Raw patient ids end here: book.py turns them into pseudonyms. What was taken waits in ``staging`` until the batch is
through, and the manifest is written last: an intake that was killed left nothing, or is finished by running it again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipelines import exchange, mask_stack, progress, staging
from pipelines.errors import OutsideSystemError, StageError, VideoError, WrongUseError
from pipelines.files import move_into_place, sha256_file
from pipelines.intake import incoming, quarantine, sources
from pipelines.intake.batch import (
    Batch,
    IntakeReport,
    attempt_of,
    forget_mended,
    leave_aside,
    set_bytes_aside,
    set_name_aside,
    suffix_of,
)
from pipelines.intake.book import Book, Described, Refused
from pipelines.intake.candidate import Candidate, Remark
from pipelines.intake.clip_checks import limits_of, shape_of
from pipelines.intake.commit import commit
from pipelines.intake.incoming import IncomingVideo, NamedAside, RowError
from pipelines.workspace import Workspace


def run(
    workspace: Workspace, place: Path | str, *, update: bool = False, stop: Callable[[], bool] = lambda: False
) -> IntakeReport:
    """Take in what is new and good; report the rest. Holds the workspace (the caller has the lock).

    ``update`` corrects label, domain and site of known videos and adds a mask they lack; ``stop`` is asked before
    each video.
    """
    _begin(workspace)
    batch = Batch.open(workspace, sources.of(place), str(place), update=update)
    found = incoming.read(batch.source, batch.params.intake.labels)
    batch.report.errors += found.errors
    named = {set_name_aside(batch, aside) for aside in found.aside}
    try:
        named |= _take_each(batch, found.rows, stop)
    except OutsideSystemError:
        if batch.params.intake.labels:  # of a first batch all labels count, and part of it would fix them
            _keep(batch)  # the next run need not decode these again
        raise
    _keep(batch)
    if not batch.report.stopped:
        forget_mended(batch, named)
    return batch.report


def _begin(workspace: Workspace) -> None:
    """What others took in comes first: tables that go on from older ones could not be joined with theirs."""
    staging.take_back(workspace)
    exchange.take_over_if_there(workspace)
    staging.require_untouched(workspace)


def _keep(batch: Batch) -> None:
    """What was taken in is in quarantine no more."""
    commit(batch)
    for taken in batch.book.new_videos:
        if held := quarantine.get(batch.workspace, taken.video_id):
            quarantine.discard(batch.workspace, held)


def _take_each(batch: Batch, rows: list[IncomingVideo], stop: Callable[[], bool]) -> set[str]:
    """One row after another, until told to stop; returns the ids in quarantine."""
    named: set[str] = set()
    with progress.track("intake", len(rows), "videos") as tracker:
        for row in rows:
            if stop():
                batch.report.stopped = True
                break
            named.add(_take(batch, row))
            tracker.advance()
    return named


def release(workspace: Workspace, prefix: str, reason: str) -> IntakeReport:
    """Take a clip out of quarantine after all. VideoError when it still cannot be decoded, or must stay.

    What is left of a patient who withdrew is deleted instead.
    """
    _begin(workspace)
    record = quarantine.find(workspace, prefix)
    batch = Batch.open(workspace, sources.LocalFolder(workspace.quarantine))
    if record.row.get("patient_id") in batch.book.withdrawn:
        quarantine.discard(workspace, record)
        cause = f"Its patient {record.row['patient_id']} withdrew (`lclsc forget`)."
        raise StageError("withdrawn", cause, "Nothing: it is deleted now, and nothing of theirs is taken in.")
    if not record.file:
        raise WrongUseError(
            "not_kept", f"This row's file was not taken over: {record.cause}", f"{record.remedy} Then run intake again."
        )
    described = Described(**record.row)
    try:
        _release(batch, record, described)
    except Refused as refused:
        raise StageError("contradiction", f"{refused.error.column}: {refused.error.message}.", "Correct it.") from None
    finally:
        batch.clear()
    commit(batch, released={record.quarantine_id: {"reason": reason, "was": record.reason}})
    quarantine.discard(workspace, record)
    return batch.report


def _release(batch: Batch, record: quarantine.Record, described: Described) -> None:
    video_id = record.quarantine_id
    batch.book.require_consistent(0, described, video_id, update=False)
    batch.report.released.append(video_id)
    if video_id in batch.book.videos:  # recorded already: a release that was killed left only its quarantine
        batch.report.known.append(video_id)
        return
    if sources.copy(batch.source, record.file, batch.copy) != video_id:
        raise StageError("quarantine_changed", "The file in quarantine is not the one set aside.", "Restore it.")
    with_mask = bool(record.mask) and not record.reason.startswith("mask_")
    if with_mask:
        sources.copy(batch.source, record.mask, batch.mask_copy)
    suffix = Path(record.file).suffix
    remarks = _accept(batch, described, video_id, suffix, with_mask=with_mask, waived=record.reason)
    if record.mask and not with_mask:
        remarks.append(Remark(code="without_mask", note="Taken in without its ground truth, which does not fit."))
    batch.report.remarks += [{"row": 0, "video_id": video_id} | remark.as_json() for remark in remarks]
    batch.report.taken.append(video_id)


# --- one row ---------------------------------------------------------------------------------------


def _take(batch: Batch, row: IncomingVideo) -> str:
    """One row: copy, hash, check, note. Wrong rows become errors, bad files go to quarantine; returns the id there."""
    described = batch.book.describe(row, batch.source.name)
    try:
        batch.book.require_consent(row.row, described)
        video_id = _copied(batch, row, "path", row.path, batch.copy)
        return _weigh(batch, row, described, video_id)
    except Refused as refused:
        batch.report.errors.append(refused.error)
        return ""
    except VideoError as error:  # what the row names is no file to copy
        return set_name_aside(batch, NamedAside(row=row.row, path=row.path, error=error))
    finally:
        batch.clear()


def _weigh(batch: Batch, row: IncomingVideo, described: Described, video_id: str) -> str:
    """A copied file: known, in quarantine already, set aside now, or taken in."""
    _require_named_bytes(batch, row, video_id)
    batch.book.require_consistent(row.row, described, video_id, update=batch.update)
    batch.book.rows.setdefault(video_id, row)
    if video_id in batch.book.videos:
        _correct(batch, row, described, video_id)
        return ""
    try:
        mask_sha256 = _copied(batch, row, "mask", row.mask, batch.mask_copy) if row.mask else ""
    except VideoError as error:
        return set_name_aside(batch, NamedAside(row=row.row, path=row.mask, error=error))
    attempt = attempt_of(batch, described, mask_sha256)
    held = quarantine.get(batch.workspace, video_id)
    if held and held.attempt == attempt:
        return leave_aside(batch, row, described, held)
    try:
        remarks = _accept(batch, described, video_id, suffix_of(row.path), with_mask=bool(row.mask))
    except VideoError as error:
        return set_bytes_aside(batch, row, described, video_id, attempt, error)
    remarks += _same_name(batch.book, described)
    batch.report.remarks += [{"row": row.row, "video_id": video_id} | remark.as_json() for remark in remarks]
    batch.report.taken.append(video_id)
    return ""


def _correct(batch: Batch, row: IncomingVideo, described: Described, video_id: str) -> None:
    """A video that is in. Its record follows the row when that is asked for; a mask it lacks is not passed over."""
    lacks_mask = bool(row.mask) and not batch.book.videos[video_id].mask_sha256
    if lacks_mask and not batch.update:
        message = "this video is recorded without a mask; `lclsc intake SRC --update` adds it"
        raise _refused(row, "mask", row.mask, "mask_not_taken", message)
    mask_sha256 = _late_mask(batch, row, video_id) if lacks_mask else ""
    corrected = batch.update and batch.book.correct(video_id, described, mask_sha256)
    (batch.report.corrected if corrected else batch.report.known).append(video_id)


def _late_mask(batch: Batch, row: IncomingVideo, video_id: str) -> str:
    """Keep ground truth that came after its video; returns its SHA-256. Refused where it does not fit."""
    try:
        _copied(batch, row, "mask", row.mask, batch.mask_copy)
        return _keep_mask(batch, video_id, shape_of(batch.copy, batch.params.intake))
    except VideoError as error:
        raise _refused(row, "mask", row.mask, error.code, f"{error.cause} {error.remedy}") from None


def _copied(batch: Batch, row: IncomingVideo, column: str, path: str, target: Path) -> str:
    """SHA-256 of the copy; Refused where there is no such file."""
    try:
        return sources.copy(batch.source, path, target, batch.params.intake.max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        raise _refused(row, column, path, "path_missing", "does not exist") from None


def _require_named_bytes(batch: Batch, row: IncomingVideo, video_id: str) -> None:
    if row.sha256 and row.sha256 != video_id:
        raise _refused(row, "sha256", row.sha256, "sha256_differs", f"the file has {video_id}")
    if batch.published is not None and video_id not in batch.published:
        message = "is no published phantom; the published test key takes nothing else"
        raise _refused(row, "path", row.path, "not_published", message)


def _refused(row: IncomingVideo, column: str, value: str, code: str, message: str) -> Refused:
    return Refused(RowError(row=row.row, column=column, value=value, code=code, message=message))


def _accept(
    batch: Batch, described: Described, video_id: str, suffix: str, *, with_mask: bool, waived: str = ""
) -> list[Remark]:
    """Decode once to the end, ask the checks, then keep file and mask under the video's id."""
    seen = batch.panel.decode(batch.copy, batch.params.intake, waived=waived)
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
    move_into_place(batch.copy, staging.place(batch.workspace.videos, f"{video_id}{suffix}"))
    batch.book.accept(video_id, described, mask_sha256)
    batch.panel.taken(candidate, seen)
    return remarks


def _keep_mask(batch: Batch, video_id: str, shape_FHW: tuple[int, int, int]) -> str:
    """Check the ground truth against its video and keep it; returns its SHA-256."""
    target = staging.place(batch.workspace.masks, f"{video_id}.tif")
    limits = limits_of(batch.params.intake)
    mask_stack.rewrite(batch.mask_copy, target, shape_FHW, limits)  # anew: what else its file says stays outside
    return sha256_file(target)


def _same_name(book: Book, described: Described) -> list[Remark]:
    others = [other[:12] for other in book.same_name_elsewhere(described)]
    note = f"This patient's {', '.join(others)} came under the same name in another batch."
    return [Remark(code="same_name_elsewhere", note=note)] if others else []
