"""What a line of the ledger must say for its event: asked here once, so that no reader stumbles over an edited line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines import ledger
from pipelines.alias_history import ABANDONED, DECISIONS, INTENDED, MOVES
from pipelines.errors import StageError
from pipelines.ledger import Entry
from pipelines.workspace import Workspace

CORRECTIONS = ("relabelled", "corrected")


class Data(BaseModel):
    """More may be said than is asked for here."""

    model_config = ConfigDict(strict=True)


class Moved(Data):
    alias: str
    before: str | None = Field(alias="from")
    after: str | None = Field(alias="to")
    decision: int | None = None


class Decided(Data):
    moves: list[Moved]


class Registered(Data):
    version: str
    commit: str
    lineage_sha256: str


class Evaluated(Data):
    metrics: dict[str, object]
    retrain_key: str
    data_version: str


class Gated(Data):
    verdict: str
    champion: str | None
    gate_sha256: str | None = None


class Published(Data):
    files: dict[str, str]


class TakenIn(Data):
    videos: list[str] = []


class Corrected(Data):
    changes: dict[str, Annotated[list[str], Field(min_length=2, max_length=2)]] = {}
    data_version: str | None = None


class Withdrew(Data):
    purged: list[str] = []
    versions: list[str] = []
    data_version: str | None = None


DATA: dict[str, type[Data]] = {
    **dict.fromkeys(sorted({*MOVES, INTENDED, ABANDONED}), Moved),
    **dict.fromkeys(sorted(DECISIONS), Decided),
    "registered": Registered,
    "evaluated": Evaluated,
    "gated": Gated,
    "published": Published,
    "taken_in": TakenIn,
    **dict.fromkeys(CORRECTIONS, Corrected),
    "withdrawn": Withdrew,
}
"""Of the events that readers take values from."""


def entries_of(workspace: Workspace) -> list[Entry]:
    """The lines that say what they must; the checks of the ledger fail on the others."""
    return sound(workspace.ledger.read_bytes() if workspace.ledger.exists() else b"")


def sound(content: bytes) -> list[Entry]:
    """``entries_of`` a ledger's bytes."""
    return [entry for entry in ledger.scan(content) if entry is not None and not any(faults(entry))]


def whole_ledger(workspace: Workspace) -> list[Entry]:
    """For those who act on it, and may miss no line: StageError where one does not say what it must."""
    entries = ledger.read(workspace.ledger)
    for entry in entries:
        for fault in faults(entry):
            cause = f"Line {entry.seq} of the ledger does not say what {entry.event} must: {fault}."
            raise StageError("ledger_damaged", cause, "Restore ledger.jsonl with git.")
    return entries


def registered(entries: Iterable[Entry], version: str) -> list[Entry]:
    """Events ``registered`` of a version; a sound ledger has one."""
    return [entry for entry in entries if entry.event == "registered" and entry.data.get("version") == version]


def data_versions(entries: Iterable[Entry]) -> set[str]:
    """Those that a writer of the tables noted."""
    told = (entry.subject if entry.event == "taken_in" else entry.data.get("data_version") for entry in entries)
    return {version for version in told if version}


def tells_every_version(entries: Iterable[Entry]) -> bool:
    """Does each writer name the version it left? Before 0.1.0 corrections and withdrawals did not."""
    writers = [entry for entry in entries if entry.event in ("taken_in", "withdrawn", *CORRECTIONS)]
    return bool(writers) and all(entry.event == "taken_in" or entry.data.get("data_version") for entry in writers)


def faults(entry: Entry) -> Iterator[str]:
    """What an event's data lacks, in words."""
    try:
        DATA.get(entry.event, Data).model_validate(entry.data)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            yield f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
