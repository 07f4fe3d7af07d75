"""The three tables in git that say what the data is: manifest, splits, provenance. Same rows, same bytes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pipelines.errors import StageError
from pipelines.files import sha256_bytes, write_text

SPLITS = ("train", "validation", "test")
DOMAINS = ("ex-vivo", "in-vivo")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Video:
    """One accepted video; only what can change a model."""

    video_id: str
    patient_id: str  # always the pseudonym
    site: str
    domain: str
    label: str
    mask_sha256: str  # empty without ground truth


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatientSplit:
    patient_id: str
    split: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a video came from; no stage depends on it."""

    video_id: str
    source_name_hmac: str
    received_at: str  # UTC, ISO 8601
    label_source: str
    consent: str


Row = TypeVar("Row", Video, PatientSplit, Provenance)


def read_videos(path: Path) -> list[Video]:
    return _read(path, Video)


def read_splits(path: Path) -> dict[str, str]:
    """patient_id -> split, in the order in which patients came."""
    return {row.patient_id: row.split for row in _read(path, PatientSplit)}


def read_provenance(path: Path) -> list[Provenance]:
    return _read(path, Provenance)


def write_videos(path: Path, rows: Iterable[Video]) -> None:
    _write(path, Video, sorted(rows, key=lambda row: row.video_id))


def write_splits(path: Path, splits: dict[str, str]) -> None:
    """Append-only by contract: the caller adds patients behind the ones that were read."""
    _write(path, PatientSplit, [PatientSplit(patient_id=key, split=value) for key, value in splits.items()])


def write_provenance(path: Path, rows: Iterable[Provenance]) -> None:
    _write(path, Provenance, sorted(rows, key=lambda row: row.video_id))


def data_version(manifest: Path, splits: Path) -> str:
    """12 hex digits that name the data: the root over every manifest row and every patient's split."""
    return version_of(read_videos(manifest), read_splits(splits))


def version_of(videos: Iterable[Video], splits: dict[str, str]) -> str:
    """The data version of tables that may not be written yet.

    Of texts under ASCII keys json writes the bytes of RFC 8785, and several times as fast as ``files.digest``.
    """
    rows = [vars(video) for video in sorted(videos, key=lambda row: row.video_id)]
    document = {"videos": rows, "splits": dict(splits)}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256_bytes(text.encode())[:12]


def parse_videos(text: str) -> list[Video]:
    """manifest.csv of a commit."""
    return _parse(text, "manifest.csv", Video)


def parse_splits(text: str) -> dict[str, str]:
    """splits.csv of a commit."""
    return {row.patient_id: row.split for row in _parse(text, "splits.csv", PatientSplit)}


def _read(path: Path, kind: type[Row]) -> list[Row]:
    return _parse(path.read_text(encoding="utf-8"), path.name, kind)


def _parse(text: str, name: str, kind: type[Row]) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    expected = [field.name for field in dataclasses.fields(kind)]
    try:
        columns, rows = reader.fieldnames, list(reader)
    except csv.Error as error:
        raise StageError("table_row", f"{name} is no CSV table: {error}.", "Restore it with git.") from None
    if columns != expected:
        raise StageError(
            "table_header",
            f"{name} has the columns {columns}; expected {expected}.",
            "Restore it with git; only `lclsc intake` writes it.",
        )
    if any(None in row or None in row.values() for row in rows):
        raise StageError("table_row", f"{name} has a row of too many or too few cells.", "Restore it with git.")
    return [kind(**row) for row in rows]


def _write(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    write_text(path, text.getvalue())
