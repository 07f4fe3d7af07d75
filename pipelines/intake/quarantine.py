"""What was set aside: the bytes where they were read, the reason and the remedy beside them, and nothing lost.

Writes  quarantine/<id>.<suffix> and <id>.json (identified zone, mode 0700, in neither git nor DVC)

A row whose file was not read (a link, a device, a name that escapes) has a record and no bytes: its file
stays where it is. The manifest row is kept with the patient's pseudonym, so that a clip can be released later.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import VideoError, WrongUseError
from pipelines.files import digest, move_into_place, read_json, remove, write_json
from pipelines.workspace import Workspace, private_folder

MIN_PREFIX = 8
MASK_SUFFIX = ".mask"


@dataclass(frozen=True, kw_only=True)
class Record:
    """Why one row was set aside. ``quarantine_id`` is the SHA-256 of the bytes where there are any."""

    quarantine_id: str
    at: str  # UTC, ISO 8601
    reason: str  # machines match on it
    cause: str
    remedy: str
    batch: str  # keyed hash of where the batch lies; of its name alone in records of older versions
    path: str  # as the sender named it; readable here and nowhere else
    file: str  # beside this record; empty where the file stayed where it was
    mask: str  # the row's ground truth, likewise
    attempt: str  # digest of what decided: decoder, caps, mask, patient, label, split. The same again decides the same
    row: dict[str, str]  # the manifest row without raw ids; empty where only a name is known

    def as_json(self) -> dict[str, Any]:
        return {"schema": "quarantine/1"} | asdict(self)


def named_id(batch: str, path: str) -> str:
    """The id of a row without bytes: of its batch and its name."""
    return digest({"batch": batch, "path": path})


def set_aside(workspace: Workspace, record: Record, copy: Path | None = None, mask: Path | None = None) -> None:
    """Bytes first, then the record that names them; last what only an earlier record of the same bytes named."""
    folder = private_folder(workspace.quarantine)
    for source, name in ((copy, record.file), (mask, record.mask)):
        if source is not None and name:
            move_into_place(source, folder / name)
    write_json(folder / f"{record.quarantine_id}.json", record.as_json())
    _remove_bytes(workspace, record.quarantine_id, keep=(record.file, record.mask))


def file_name(quarantine_id: str, suffix: str, *, mask: bool = False) -> str:
    return f"{quarantine_id}{MASK_SUFFIX if mask else ''}{suffix}"


def listing(workspace: Workspace) -> list[Record]:
    """Every record, oldest first."""
    if not workspace.quarantine.exists():
        return []
    found = (_read(path) for path in workspace.quarantine.glob("*.json") if not path.name.startswith("."))
    return sorted(found, key=lambda record: (record.at, record.quarantine_id))


def get(workspace: Workspace, quarantine_id: str) -> Record | None:
    path = workspace.quarantine / f"{quarantine_id}.json"
    return _read(path) if path.exists() else None


def find(workspace: Workspace, prefix: str) -> Record:
    """The one record whose id begins so. WrongUseError for a prefix that is short, unknown or ambiguous."""
    if len(prefix) < MIN_PREFIX:
        raise WrongUseError("short_id", f"{prefix!r} is too short.", f"Give at least {MIN_PREFIX} characters of it.")
    found = [record for record in listing(workspace) if record.quarantine_id.startswith(prefix.lower())]
    if len(found) != 1:
        raise WrongUseError(
            "unknown_id" if not found else "ambiguous_id",
            f"{len(found)} clips in quarantine have an id that begins with {prefix}.",
            "See `lclsc intake --quarantine` for the ids.",
        )
    return found[0]


def discard(workspace: Workspace, record: Record) -> None:
    """Forget a record whose clip was taken in, or whose row was mended: the bytes first, as only it names them."""
    _remove_bytes(workspace, record.quarantine_id)
    (workspace.quarantine / f"{record.quarantine_id}.json").unlink(missing_ok=True)


def _remove_bytes(workspace: Workspace, quarantine_id: str, keep: Collection[str] = ()) -> None:
    """Whatever bears the id, named by a record or not: a patient's pixels must not stay behind unseen."""
    for path in workspace.quarantine.glob(f"{quarantine_id}*"):
        if path.name not in (f"{quarantine_id}.json", *keep):
            remove(path)


def reason_of(error: VideoError) -> dict[str, str]:
    return {"reason": error.code, "cause": error.cause, "remedy": error.remedy}


def _read(path: Path) -> Record:
    content = dict(read_json(path))
    content.pop("schema", None)
    return Record(**content)
