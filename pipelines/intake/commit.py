"""What an accepted batch leaves in git and DVC: tables, splits of new patients, ledger, one commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pipelines import exchange, ledger, manifest, params_file, split, staging, versioning
from pipelines.errors import LclscError
from pipelines.files import write_json
from pipelines.intake.batch import Batch
from pipelines.intake.book import Book
from pipelines.manifest import Video


def commit(batch: Batch, released: dict[str, dict[str, str]] | None = None) -> None:
    """Files and DVC first, then the ledger, then the tables with the manifest last, then one commit of all."""
    workspace, book = batch.workspace, batch.book
    if book.new_videos or book.corrections:
        _write(batch, released or {})
    version = manifest.data_version(workspace.manifest, workspace.splits)
    edited = versioning.open_edits(workspace)  # whoever is at it commits it
    own = [name for name in versioning.OWN_INPUTS if name not in edited]
    # Both also for an intake before this one, which was killed or could not.
    versioning.commit(workspace, (*own, workspace.ledger.name), f"{_what(book)}: data version {version}")
    _share(batch)
    batch.report.data_version = version


def _write(batch: Batch, released: dict[str, dict[str, str]]) -> None:
    workspace, book = batch.workspace, batch.book
    new_labels, added = _first_labels(batch), _new_splits(batch)
    staging.begin(workspace, patients=added, first_labels=bool(new_labels))
    if new_labels:
        params_file.write(workspace.params, workspace.params, {"intake": {"labels": new_labels}})
    if book.new_videos:
        versioning.track(workspace, "videos", remote="identified")
    if book.new_videos or any("mask_sha256" in changes for changes in book.corrections.values()):
        versioning.track(workspace, "masks")
    write_json(workspace.marker, workspace.settings() | {"key_id": book.key.key_id})
    _note(batch, manifest.version_of(book.videos.values(), book.splits | added), released)
    manifest.write_splits(workspace.splits, book.splits | added)
    manifest.write_provenance(workspace.provenance, book.provenance.values())
    manifest.write_videos(workspace.manifest, book.videos.values())
    staging.end(workspace)


def _what(book: Book) -> str:
    done = [f"take in {len(book.new_videos)} videos"] if book.new_videos else []
    done += [f"correct {len(book.corrections)} videos"] if book.corrections else []
    return " and ".join(done).capitalize() or "Record inputs"


def _share(batch: Batch) -> None:
    """A second copy, before anybody clears the place that the batch came from. Intake is done without it."""
    if not versioning.keeps_copies_elsewhere(batch.workspace):
        return
    try:
        versioning.push_inputs(batch.workspace)
        exchange.push(batch.workspace)
    except LclscError as error:
        batch.report.not_pushed = error.cause


def _first_labels(batch: Batch) -> list[str]:
    """The first batch's become the allowed ones."""
    if batch.book.new_videos and not batch.params.intake.labels:
        batch.report.new_labels = sorted({video.label for video in batch.book.new_videos})
    return batch.report.new_labels


def _new_splits(batch: Batch) -> dict[str, str]:
    """Splits of new patients."""
    book, params = batch.book, batch.params
    if not book.new_videos:
        return {}
    labels = _labels_of(book.videos.values())
    added = split.assign(book.splits, labels, book.wanted, params.split, together=_together(batch))
    batch.report.patients = dict(sorted(Counter(added.values()).items()))
    return added


def _note(batch: Batch, version: str, released: dict[str, dict[str, str]]) -> None:
    """Before the tables are written: an intake killed in between is noted once, and tables nobody noted are edited."""
    book = batch.book
    events: list[tuple[str, str, dict[str, Any]]] = []
    if book.new_videos:
        videos = sorted(video.video_id for video in book.new_videos)
        patients = len({video.patient_id for video in book.new_videos})
        near_copies = [[remark["video_id"], remark["other"]] for remark in _near_copies(batch)]
        copies = {"near_copies": near_copies} if near_copies else {}
        events.append(("taken_in", version, {"videos": videos, "patients": patients} | copies))
    for video_id, data in sorted(released.items()):
        events.append(("released", video_id, dict(data)))
    for video_id, changes in sorted(book.corrections.items()):
        events.append(
            (
                "relabelled" if "label" in changes else "corrected",
                video_id,
                {"changes": changes, "data_version": version},
            )
        )
    last = {(entry.event, entry.subject): entry.data for entry in ledger.read(batch.workspace.ledger)}
    for event, subject, data in events:
        if last.get((event, subject)) != data:
            ledger.append(batch.workspace, actor="intake", event=event, subject=subject, data=data)


def _near_copies(batch: Batch) -> list[dict[str, Any]]:
    return [remark for remark in batch.report.remarks if remark["code"] == "near_copy"]


def _together(batch: Batch) -> list[tuple[str, str]]:
    """Patients whose clips are near copies of each other."""
    videos = batch.book.videos
    return [(videos[item["video_id"]].patient_id, item["beside"]) for item in _near_copies(batch) if item["beside"]]


def _labels_of(videos: Iterable[Video]) -> dict[str, set[str]]:
    labels: dict[str, set[str]] = {}
    for one in videos:
        labels.setdefault(one.patient_id, set()).add(one.label)
    return labels
