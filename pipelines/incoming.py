"""The manifest somebody sends with their videos: read, checked cell by cell, or drafted from folder names."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from pipelines.errors import WrongUseError
from pipelines.files import write_text
from pipelines.manifest import DOMAINS, SPLITS

REQUIRED = ("path", "patient_id", "label")
OPTIONAL = ("domain", "site", "split", "mask", "consent", "sha256")
VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".m4v"}
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class IncomingVideo:
    """One good row. ``raw_patient_id`` never leaves intake."""

    row: int
    path: Path
    raw_patient_id: str
    label: str
    domain: str
    site: str
    split: str
    mask: Path | None
    consent: str
    sha256: str

    def __repr__(self) -> str:
        return f"IncomingVideo(row={self.row}, label={self.label!r})"


@dataclass(frozen=True, kw_only=True)
class RowError:
    """What is wrong with one cell, in words for whoever filled it in."""

    file: str
    row: int
    column: str
    value: str
    message: str

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def read(source: Path, allowed_labels: Collection[str]) -> tuple[list[IncomingVideo], list[RowError]]:
    """Good rows and cell errors of ``source/manifest.csv``. No label is refused while none is allowed yet."""
    file = source / "manifest.csv"
    good: list[IncomingVideo] = []
    errors: list[RowError] = []
    for row, cells in _rows(file):
        problems = list(_check(source, row, cells, allowed_labels))
        errors += problems
        if not problems:
            good.append(_incoming(source, row, cells))
    return good, errors + _duplicate_paths(good)


def draft(source: Path) -> Path:
    """Write ``source/manifest.csv`` to fill in, guessing label and patient from ``label/patient/*.mp4``."""
    target = source / "manifest.csv"
    if target.exists():
        raise WrongUseError("manifest_exists", f"{target} exists already.", "Edit it, or move it away first.")
    text = io.StringIO()
    writer = csv.DictWriter(text, [*REQUIRED, *OPTIONAL], lineterminator="\n")
    writer.writeheader()
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            writer.writerow(_guess(path.relative_to(source)))
    write_text(target, text.getvalue())
    return target


def _guess(relative: Path) -> dict[str, str]:
    folders = relative.parts[:-1]
    label, patient = folders[-2:] if len(folders) >= 2 else ("", "")
    return {"path": relative.as_posix(), "label": label, "patient_id": patient}


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows with their line number in the file (the header is line 1)."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise WrongUseError(
            "no_incoming_manifest",
            f"{file} is missing.",
            "Write a draft of it with `lclsc intake SRC --template`.",
        ) from None
    except UnicodeDecodeError:
        raise WrongUseError("manifest_encoding", f"{file} is not UTF-8 text.", "Save it as CSV, UTF-8.") from None
    reader = csv.DictReader(io.StringIO(text), restkey="", restval="")
    columns = reader.fieldnames or []
    lacking = [name for name in REQUIRED if name not in columns]
    unknown = [name for name in columns if name not in (*REQUIRED, *OPTIONAL)]
    if lacking or unknown:
        raise WrongUseError(
            "manifest_columns",
            f"{file}: missing columns {lacking}, unknown columns {unknown}.",
            f"Required: {', '.join(REQUIRED)}. Optional: {', '.join(OPTIONAL)}.",
        )
    for cells in reader:
        extra = cells.pop("", None)
        yield (
            reader.line_num,
            {name: (value or "").strip() for name, value in cells.items()} | ({"path": ""} if extra else {}),
        )


def _check(source: Path, row: int, cells: dict[str, str], allowed_labels: Collection[str]) -> Iterator[RowError]:
    def wrong(column: str, message: str, *, show: bool = True) -> RowError:
        value = cells.get(column, "") if show else ""
        return RowError(file="manifest.csv", row=row, column=column, value=value, message=message)

    if problem := _path_problem(source, cells["path"]):
        yield wrong("path", problem)
    if not cells["patient_id"]:
        yield wrong("patient_id", "is empty", show=False)
    if problem := _label_problem(cells["label"], allowed_labels):
        yield wrong("label", problem)
    for column, allowed in (("domain", DOMAINS), ("split", SPLITS)):
        if cells.get(column) and cells[column] not in allowed:
            yield wrong(column, f"is not one of {', '.join(allowed)}")
    if cells.get("mask") and (problem := _path_problem(source, cells["mask"])):
        yield wrong("mask", problem)
    if cells.get("sha256") and not re.fullmatch(r"[0-9a-f]{64}", cells["sha256"].lower()):
        yield wrong("sha256", "is not 64 hexadecimal digits")


def _path_problem(source: Path, value: str) -> str | None:
    """Only plain relative paths to regular files below the source; anything else names its fault."""
    if not value:
        return "is empty, or the row has more cells than the header"
    if any(ord(sign) < 32 for sign in value) or PurePosixPath(value).is_absolute() or ".." in Path(value).parts:
        return "must be a relative path inside the folder"
    path = source / value
    if not path.exists():
        return "does not exist"
    if path.resolve() != source.resolve() / value or not path.is_file():
        return "must be a regular file, not a link or a folder"
    return None


def _label_problem(label: str, allowed: Collection[str]) -> str | None:
    if not LABEL.fullmatch(label):
        return "must be 1-64 letters, digits, spaces or ._+-"
    if allowed and label not in allowed:
        near = difflib.get_close_matches(label, allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"is not one of {', '.join(sorted(allowed))}{hint} (intake.labels in params.yaml)"
    return None


def _incoming(source: Path, row: int, cells: dict[str, str]) -> IncomingVideo:
    return IncomingVideo(
        row=row,
        path=source / cells["path"],
        raw_patient_id=cells["patient_id"],
        label=cells["label"],
        domain=cells.get("domain") or "ex-vivo",
        site=cells.get("site") or "unknown",
        split=cells.get("split", ""),
        mask=source / cells["mask"] if cells.get("mask") else None,
        consent=cells.get("consent", ""),
        sha256=cells.get("sha256", "").lower(),
    )


def _duplicate_paths(good: list[IncomingVideo]) -> list[RowError]:
    seen: dict[Path, int] = {}
    errors = []
    for video in good:
        first = seen.setdefault(video.path, video.row)
        if first != video.row:
            message = f"stands in row {first} too"
            errors.append(
                RowError(file="manifest.csv", row=video.row, column="path", value=video.path.name, message=message)
            )
    repeated = {error.row for error in errors}
    good[:] = [video for video in good if video.row not in repeated]
    return errors
