"""One batch on its way in: what is at hand for each row, what became of it, and how a row is set aside."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import identity
from pipelines import params as parameters
from pipelines.errors import VideoError
from pipelines.files import TEMPORARY_PREFIX, digest, remove, sha256_bytes
from pipelines.intake import incoming, quarantine
from pipelines.intake.book import Book, Described
from pipelines.intake.clip_checks import Panel
from pipelines.intake.incoming import IncomingVideo, NamedAside, RowError
from pipelines.intake.sources import LocalFolder, Source
from pipelines.ledger import now
from pipelines.video import clips
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
    not_pushed: str = ""  # why what was taken in has no copy elsewhere yet

    def as_json(self) -> dict[str, Any]:
        changed = self.taken or self.corrected
        return {"schema": "intake/1", "status": "taken_in" if changed else "nothing_new"} | dataclasses.asdict(self)

    @property
    def clean(self) -> bool:
        return not (self.errors or self.quarantined or self.stopped)


@dataclass
class Batch:
    """What is at hand while the rows of one batch are taken in."""

    workspace: Workspace
    source: Source
    params: parameters.Params
    book: Book
    panel: Panel
    report: IntakeReport
    place_id: str  # keyed hash of where the batch lies: two sites may both send a folder `march`
    update: bool = False
    published: set[str] | None = None

    @classmethod
    def open(cls, workspace: Workspace, source: Source, address: str = "", *, update: bool = False) -> Batch:
        """``address`` is where a source lies that is no folder on this machine."""
        params, book = parameters.load(workspace.params), Book.open(workspace)
        published = _published(source, book.key)
        panel, report = Panel(workspace), IntakeReport()
        place_id = book.batch_id(_place(source, address))
        return cls(workspace, source, params, book, panel, report, place_id, update, published)

    @property
    def copy(self) -> Path:
        return private_folder(self.workspace.videos) / f"{TEMPORARY_PREFIX}incoming"

    @property
    def mask_copy(self) -> Path:
        return private_folder(self.workspace.videos) / f"{TEMPORARY_PREFIX}incoming-mask"

    def clear(self) -> None:
        remove(self.copy)
        remove(self.mask_copy)


def set_bytes_aside(
    batch: Batch, row: IncomingVideo, described: Described, video_id: str, attempt: str, error: VideoError
) -> str:
    record = quarantine.Record(
        quarantine_id=video_id,
        at=now(),
        batch=batch.place_id,
        path=row.path,
        file=quarantine.file_name(video_id, suffix_of(row.path)),
        mask=quarantine.file_name(video_id, ".tif", mask=True) if row.mask else "",
        attempt=attempt,
        row=described.as_json(),
        **quarantine.reason_of(error),
    )
    quarantine.set_aside(batch.workspace, record, batch.copy, batch.mask_copy if row.mask else None)
    batch.report.quarantined.append(noted(row.row, record))
    return video_id


def leave_aside(batch: Batch, row: IncomingVideo, described: Described, held: quarantine.Record) -> str:
    """Bytes that would fare as before. Their record follows the row: it is what a release takes in."""
    record = dataclasses.replace(held, batch=batch.place_id, path=row.path, row=described.as_json())
    if record != held:
        quarantine.set_aside(batch.workspace, record)
    batch.report.quarantined.append(noted(row.row, record, again=True))
    return record.quarantine_id


def set_name_aside(batch: Batch, aside: NamedAside) -> str:
    """Its file is not touched: the record says where the fault is."""
    quarantine_id = quarantine.named_id(batch.place_id, aside.path)
    record = quarantine.get(batch.workspace, quarantine_id)
    again = record is not None and record.reason == aside.error.code
    if record is None or not again:
        reason = quarantine.reason_of(aside.error)
        record = quarantine.Record(
            quarantine_id=quarantine_id,
            at=now(),
            batch=batch.place_id,
            path=aside.path,
            file="",
            mask="",
            attempt="",
            row={},
            **reason,
        )
        quarantine.set_aside(batch.workspace, record)
    batch.report.quarantined.append(noted(aside.row, record, again=again))
    return quarantine_id


def noted(row: int, record: quarantine.Record, *, again: bool = False) -> dict[str, Any]:
    return {
        "row": row,
        "id": record.quarantine_id,
        "reason": record.reason,
        "cause": record.cause,
        "remedy": record.remedy,
        "again": again,
    }


def attempt_of(batch: Batch, described: Described, mask_sha256: str) -> str:
    """What decides whether the same bytes may fare otherwise this time: judges weigh whose they are, too."""
    caps = batch.params.intake.model_dump(exclude={"labels"})
    weighed = {"patient": described.patient_id, "label": described.label, "split": described.split}
    return digest({"decoder": clips.every_decoder(), "caps": caps, "mask": mask_sha256} | weighed)


def forget_mended(batch: Batch, named: set[str]) -> None:
    """Records without bytes of this batch whose row is gone or good now, and whatever is left of who withdrew."""
    here = (batch.place_id, batch.book.batch_id(batch.source.name))  # older versions noted the name alone
    for record in quarantine.listing(batch.workspace):
        mended = not record.file and record.batch in here and record.quarantine_id not in named
        withdrawn = record.row.get("patient_id") in batch.book.withdrawn  # forgotten in another clone, say
        if record.quarantine_id in batch.book.videos or mended or withdrawn:
            quarantine.discard(batch.workspace, record)


def _place(source: Source, address: str) -> str:
    """A digest of the resolved folder or the address: any bytes may stand in a path."""
    place = str(source.folder) if isinstance(source, LocalFolder) else address.rstrip("/")
    return sha256_bytes(os.fsencode(place))


def _published(source: Source, key: identity.Key) -> set[str] | None:
    """Under the published test key, the only videos allowed in; None under any other key."""
    if key.key_id != identity.PUBLISHED_TEST_KEY_ID:
        return None
    try:
        with source.open("synth.json") as file:
            return set(json.loads(file.read())["videos"])
    except FileNotFoundError:
        return set()


def suffix_of(path: str) -> str:
    """Readers go by content: the suffix is kept for people, and only where it is one of a video."""
    suffix = Path(path).suffix.lower()
    return suffix if suffix in incoming.VIDEO_SUFFIXES else ""
