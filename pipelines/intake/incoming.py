"""The manifest somebody sends with their videos: read, checked cell by cell, or drafted from folder names."""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
import stat
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipelines import names
from pipelines.errors import VideoError, WrongUseError
from pipelines.files import write_text
from pipelines.intake import sources
from pipelines.intake.sources import Source
from pipelines.manifest import DOMAINS, SPLITS
from pipelines.video.frame_folder import RATE_FILE

MANIFEST = "manifest.csv"
REQUIRED = ("path", "patient_id", "label")
OPTIONAL = ("domain", "site", "split", "mask", "consent", "sha256")
VIDEO_SUFFIXES = {
    *(".mp4", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".m4v"),
    *(".dcm", ".tif", ".tiff", ".mkt"),
}
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63}")
TEXT_LENGTHS = {"patient_id": 256, "site": 64, "consent": 256}
MAX_MANIFEST_BYTES = 64 << 20


class ManifestError(WrongUseError):
    """The manifest of a batch is wrong, and stays so until somebody edits it."""


@dataclass(frozen=True, kw_only=True)
class IncomingVideo:
    """One good row. ``raw_patient_id`` never leaves intake. Empty cells stay empty: they claim nothing."""

    row: int
    path: str  # plain, relative to the batch
    raw_patient_id: str
    label: str
    domain: str
    site: str
    split: str
    mask: str
    consent: str
    sha256: str

    def __repr__(self) -> str:
        return f"IncomingVideo(row={self.row}, label={self.label!r})"


@dataclass(frozen=True, kw_only=True)
class RowError:
    """What is wrong with one cell, in words for whoever filled it in; machines match on ``code``."""

    file: str = MANIFEST
    row: int
    column: str
    value: str
    code: str
    message: str

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class NamedAside:
    """A row whose file is not touched, because of how it is named or what it is."""

    row: int
    path: str
    error: VideoError


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Something in the folder that the draft has no row for."""

    path: str
    what: str


@dataclass(kw_only=True)
class Draft:
    """A manifest to fill in, and what it leaves out."""

    path: Path
    videos: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        skipped = [asdict(one) for one in self.skipped]
        return {"schema": "template/1", "manifest": str(self.path), "videos": self.videos, "skipped": skipped}


@dataclass
class Incoming:
    """What a batch's manifest comes to."""

    rows: list[IncomingVideo] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)
    aside: list[NamedAside] = field(default_factory=list)


def read(source: Source, allowed_labels: Collection[str]) -> Incoming:
    """Good rows, cell errors and names to set aside. No label is refused while none is allowed yet."""
    found = Incoming()
    for row, cells in _rows(_text(source)):
        problems = list(_check(row, cells, allowed_labels))
        found.errors += problems
        if problems:
            continue
        try:
            found.rows.append(_incoming(row, cells))
        except VideoError as error:
            found.aside.append(NamedAside(row=row, path=cells["path"], error=error))
    found.errors += _take_out_repeated(found.rows)
    if not (found.rows or found.errors or found.aside):
        cause = f"{MANIFEST} of {source.name} has a header and no rows."
        raise ManifestError("manifest_empty", cause, "Give every video a row.")
    return found


def draft(folder: Path) -> Draft:
    """Write ``folder/manifest.csv`` to fill in, guessing label and patient from ``label/patient/*.mp4``."""
    target = sources.existing(folder) / MANIFEST
    if target.exists():
        raise WrongUseError("manifest_exists", f"{target} exists already.", "Edit it, or move it away first.")
    text = io.StringIO()
    writer = csv.DictWriter(text, [*REQUIRED, *OPTIONAL], lineterminator="\n")
    writer.writeheader()
    frames = {path.parent for path in folder.rglob(RATE_FILE)}
    written = Draft(path=target)
    for path in sorted(folder.rglob("*")):
        fault = "" if path in frames else _no_video(path)
        if path in frames or (not fault and path.parent not in frames and not path.is_dir()):
            writer.writerow(_guess(path.relative_to(folder)))
            written.videos += 1
        elif fault and path.parent not in frames:
            name = os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
            written.skipped.append(Skipped(path=name, what=fault))
    write_text(target, text.getvalue())
    return written


def _no_video(path: Path) -> str:
    """Why a row would not be taken in, in words; empty for a video, and for a folder, which is looked into."""
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        return ""
    if not stat.S_ISREG(mode):
        return sources.kind_of(mode)[1]
    return "" if path.suffix.lower() in VIDEO_SUFFIXES else "no kind of file that is read here"


def _guess(relative: Path) -> dict[str, str]:
    folders = relative.parts[:-1]
    label, patient = folders[-2:] if len(folders) >= 2 else ("", "")
    return {"path": relative.as_posix(), "label": label, "patient_id": patient}


def _text(source: Source) -> str:
    try:
        with source.open(MANIFEST) as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise WrongUseError(
            "no_incoming_manifest",
            f"There is no {MANIFEST} in {source.name}.",
            "Write a draft of it with `lclsc intake SRC --template`.",
        ) from None
    except VideoError as error:  # a link, a pipe, a file that is still being written
        kind = WrongUseError if error.code == "still_written" else ManifestError
        raise kind(error.code, f"{MANIFEST} of {source.name}: {error.cause}", error.remedy) from None
    if len(content) > MAX_MANIFEST_BYTES:
        raise ManifestError("manifest_too_large", f"{MANIFEST} is larger than 64 MiB.", "Send it in parts.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ManifestError("manifest_encoding", f"{MANIFEST} is not UTF-8 text.", "Save it as CSV, UTF-8.") from None


def _rows(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows with their line number in the file (the header is line 1)."""
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval="", delimiter=_delimiter(text))
    try:
        _require_columns(list(reader.fieldnames or []))
        for cells in reader:
            surplus = cells.pop("", None)
            values = {name: (value or "").strip() for name, value in cells.items()}
            yield reader.line_num, values | ({"path": ""} if surplus else {})
    except csv.Error as error:
        raise ManifestError(
            "manifest_syntax", f"{MANIFEST}, line {reader.line_num}: {error}.", "Save it as CSV, UTF-8."
        ) from None


def _delimiter(text: str) -> str:
    """Spreadsheets of many languages save CSV with semicolons; the header tells."""
    header = text.split("\n", 1)[0]
    return next((sign for sign in ",;\t" if sign in header), ",")


def _require_columns(columns: list[str]) -> None:
    lacking = [name for name in REQUIRED if name not in columns]
    unknown = [name for name in columns if name not in (*REQUIRED, *OPTIONAL)]
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if lacking or unknown or repeated:
        raise ManifestError(
            "manifest_columns",
            f"{MANIFEST}: missing columns {lacking}, unknown columns {unknown[:20]}, repeated columns {repeated}.",
            f"Required: {', '.join(REQUIRED)}. Optional: {', '.join(OPTIONAL)}.",
        )


def _check(row: int, cells: dict[str, str], allowed_labels: Collection[str]) -> Iterator[RowError]:
    def wrong(column: str, code: str, message: str, *, show: bool = True) -> RowError:
        value = cells.get(column, "") if show else ""
        return RowError(row=row, column=column, value=value, code=code, message=message)

    if not cells["path"]:
        yield wrong("path", "path_empty", "is empty, or the row has more cells than the header")
    if not cells["patient_id"]:
        yield wrong("patient_id", "patient_empty", "is empty", show=False)
    if problem := _label_problem(cells["label"], allowed_labels):
        yield wrong("label", *problem)
    for column, allowed in (("domain", DOMAINS), ("split", SPLITS)):
        if cells.get(column) and cells[column] not in allowed:
            yield wrong(column, f"{column}_unknown", f"is not one of {', '.join(allowed)}")
    for column, length in TEXT_LENGTHS.items():
        if problem_text := _text_problem(column, cells.get(column, ""), length):
            yield wrong(column, f"{column}_unsafe", problem_text, show=False)
    if cells.get("sha256") and not re.fullmatch(r"[0-9a-f]{64}", cells["sha256"].lower()):
        yield wrong("sha256", "sha256_invalid", "is not 64 hexadecimal digits")


def _label_problem(label: str, allowed: Collection[str]) -> tuple[str, str] | None:
    if not LABEL.fullmatch(label):
        return "label_invalid", "must be 1-64 letters, digits, spaces or ._+-"
    if allowed and label not in allowed:
        near = difflib.get_close_matches(label, allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return "label_unknown", f"is not one of {', '.join(sorted(allowed))}{hint} (intake.labels in params.yaml)"
    return None


def _text_problem(column: str, value: str, length: int) -> str | None:
    """Free text that could break a table, deceive its reader, or run in a spreadsheet."""
    if len(value) > length:
        return f"is longer than {length} characters"
    if names.hides_or_breaks(value):
        return "holds signs that do not show or that break the line"
    if column != "patient_id" and value.startswith((*names.FORMULA_SIGNS, "-")):  # a patient's id is never kept
        return "begins like a spreadsheet formula"
    return None


def _incoming(row: int, cells: dict[str, str]) -> IncomingVideo:
    """VideoError for a name that is not to be followed."""
    return IncomingVideo(
        row=row,
        path=names.checked(cells["path"]),
        raw_patient_id=cells["patient_id"],
        label=cells["label"],
        domain=cells.get("domain", ""),
        site=cells.get("site", ""),
        split=cells.get("split", ""),
        mask=names.checked(cells["mask"]) if cells.get("mask") else "",
        consent=cells.get("consent", ""),
        sha256=cells.get("sha256", "").lower(),
    )


def _take_out_repeated(rows: list[IncomingVideo]) -> list[RowError]:
    """Of rows that name the same file, the first stays."""
    first: dict[str, int] = {}
    errors = []
    for video in rows:
        if first.setdefault(video.path, video.row) != video.row:
            message = f"stands in row {first[video.path]} too"
            errors.append(
                RowError(row=video.row, column="path", value=video.path, code="path_repeated", message=message)
            )
    repeated = {error.row for error in errors}
    rows[:] = [video for video in rows if video.row not in repeated]
    return errors
