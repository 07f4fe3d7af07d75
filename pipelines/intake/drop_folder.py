"""A drop folder, here or in a bucket: each subfolder is a batch, taken in once all it names stands still.

Writes  .state/drop/<keyed hash of the folder's place>.json: what each batch looked like, and what became of it

Names of batches and files may tell who a patient is, so the notes hold keyed hashes and counts. Nothing is
written into the drop folder. A batch that was taken in costs a look at sizes and times until one of them changes.
"""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines import identity, locks
from pipelines.errors import LclscError, VideoError, WrongUseError
from pipelines.files import CHUNK_BYTES, digest, read_json, remove_temporaries, write_json
from pipelines.intake import incoming, sources, take_in
from pipelines.intake.batch import IntakeReport
from pipelines.intake.incoming import MANIFEST, IncomingVideo, ManifestError
from pipelines.intake.sources import Source
from pipelines.ledger import exclusive
from pipelines.video.frame_folder import RATE_FILE
from pipelines.workspace import Workspace

MISSING, WITHOUT_RATE = "missing", "without rate"
"""What a file, and a folder of frames, may look like beside its size and time or the code of what is wrong with it."""


ENDED = ("taken", "failed")
"""States in which a batch waits for nothing until it changes."""
BUSY = "workspace_busy"
OVERDUE_SECONDS = 3600.0
"""After which somebody is told that a batch still waits, or is still refused."""
LONGEST_WORK_SECONDS = 48 * 3600.0
"""After which somebody is told that the workspace still does something else: no training is given more."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """What is remembered of one batch."""

    looks: str  # digest of names, sizes and times: the same looks, the same batch
    since: float  # Unix time at which it was first seen to look so
    state: str  # waiting, busy, taken, failed
    why: str = ""  # in words, without names
    told: bool = False  # were people called
    bad_rows: bool = False  # it was taken, but for some


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What one pass did about one batch."""

    batch: str
    state: str  # waiting, taken, failed, busy
    why: str
    code: str = ""  # of the error behind ``why``, whose words may name files
    report: IntakeReport | None = None
    alarm: bool = field(default=False, compare=False)  # somebody has to look, and was not told yet

    def as_json(self) -> dict[str, Any]:
        report = self.report.as_json() if self.report else None
        return {"batch": self.batch, "state": self.state, "why": self.why, "report": report}


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds."""

    poll: float = 10.0  # between two passes
    settle: float = 30.0  # without a change, until a batch counts as complete


def watch(
    workspace: Workspace,
    folder: str | Path,
    timing: Timing,
    *,
    once: bool,
    wait: Callable[[float], bool],
    is_shown: bool = False,
) -> Iterator[Visit]:
    """Visits in which something happened, until ``wait`` (which sleeps) says that it is time to stop.

    ``folder`` is a path, or an address of fsspec's such as ``s3://bucket/drop``. ``is_shown`` where somebody sees the
    visits as they come: who saw that a batch failed need not be called.
    """
    drop, notes = sources.of(folder), _Notes.open(workspace, folder)
    said: dict[str, Visit] = {}
    while True:
        for name in drop.folders():
            if wait(0):
                return
            batch = _Batch(name, drop.at(name), is_asked_for=is_shown and name not in said)
            visit = _told(workspace, batch, notes, timing, lambda: wait(0))
            if is_shown and visit is not None and visit.state == "failed":
                notes.put(name, replace(notes.of_trouble(visit), told=True))
            if visit is not None and visit != said.get(name):
                said[name] = visit
                yield visit
        if once or wait(timing.poll):
            return


def note_told(workspace: Workspace, folder: str | Path, visits: Iterable[Visit]) -> None:
    """People were called about these batches: no alarm for them until they change."""
    notes = _Notes.open(workspace, folder)
    for visit in visits:
        if visit.alarm:
            notes.put(visit.batch, replace(notes.of_trouble(visit), told=True))


@dataclass(frozen=True)
class _Batch:
    """A subfolder that is a batch already, or will be."""

    name: str
    place: str
    is_asked_for: bool  # somebody wants to see what is wrong with it, told before or not

    @cached_property
    def source(self) -> Source:
        return sources.of(self.place)


def _told(workspace: Workspace, batch: _Batch, notes: _Notes, timing: Timing, stop: Callable[[], bool]) -> Visit | None:
    """A visit, whatever happens in it: the batches after this one have their turn, and this one is tried again."""
    try:
        visit = _visit(workspace, batch, notes, timing, stop)
    except OSError as error:
        why = f"A file could not be read or written ({error.strerror or type(error).__name__})."
        visit = Visit(batch=batch.name, state="busy", why=why)
    except LclscError as error:  # a bucket that does not answer, a folder that is gone
        visit = Visit(batch=batch.name, state="busy", why=error.cause, code=error.code)
    except Exception as error:  # nobody foresaw it; its text may hold a name
        last = traceback.extract_tb(error.__traceback__)[-1]
        why = f"The batch could not be taken in ({type(error).__name__} in {Path(last.filename).name}:{last.lineno})."
        visit = Visit(batch=batch.name, state="failed", why=why)
    return visit if visit is None or visit.state == "taken" else _alarmed(visit, notes)


def _alarmed(visit: Visit, notes: _Notes) -> Visit:
    """Call people at once about what failed, later about what is still not in."""
    note = notes.of_trouble(visit)
    notes.put(visit.batch, note)
    patience = LONGEST_WORK_SECONDS if visit.code == BUSY else OVERDUE_SECONDS
    is_late = note.state not in ENDED and time.time() - note.since > patience
    return replace(visit, alarm=not note.told and (visit.state == "failed" or is_late))


def _visit(
    workspace: Workspace, batch: _Batch, notes: _Notes, timing: Timing, stop: Callable[[], bool]
) -> Visit | None:
    """Take a batch in when it is complete; None for one that was dealt with and has not changed since.

    One that failed is dealt with once somebody was told.
    """
    before = notes.get(batch.name)
    looks, rows, why = _look(batch.source)
    now = time.time()
    if before is None or before.looks != looks:
        note, changed = Note(looks=looks, since=now, state="waiting"), True
    elif _is_over(before) and not (batch.is_asked_for and (before.state == "failed" or before.bad_rows)):
        return None
    else:
        note, changed = replace(before, since=min(before.since, now)), False  # the clock may have been set back
    if not why and now - note.since < timing.settle and not (changed and _checksums_hold(batch.source, rows)):
        why = "files may still be changing"
    if why:
        notes.put(batch.name, replace(note, state="waiting", why=why))
        return Visit(batch=batch.name, state="waiting", why=why)
    return _taken(workspace, batch, notes, note, stop)


def _is_over(note: Note) -> bool:
    return note.state == "taken" or (note.state == "failed" and note.told)


def _taken(workspace: Workspace, batch: _Batch, notes: _Notes, note: Note, stop: Callable[[], bool]) -> Visit:
    """A manifest that is wrong is not tried again until it changes; what lies with the workspace is."""
    try:
        with locks.one_writer(workspace):
            report = take_in.run(workspace, batch.place, stop=stop)
    except LclscError as error:
        state = "failed" if isinstance(error, ManifestError) else "busy"
        notes.put(batch.name, replace(note, state=state, why=error.code))
        return Visit(batch=batch.name, state=state, why=f"{error.cause} {error.remedy}", code=error.code)
    if not report.stopped:
        notes.put(batch.name, replace(note, state="taken", why="", bad_rows=bool(report.errors)))
    return Visit(batch=batch.name, state="taken", why="", report=report)


def _look(source: Source) -> tuple[str, list[IncomingVideo], str]:
    """(digest of what a batch looks like, its rows, what it still waits for)."""
    try:
        manifest_state = source.state(MANIFEST)
        rows = incoming.read(source, []).rows
    except FileNotFoundError:
        return "", [], f"no {MANIFEST} yet"
    except (VideoError, WrongUseError) as error:
        if error.code in ("still_written", "no_incoming_manifest"):
            return "", [], f"{MANIFEST} is still being written"
        return digest([error.code, str(error)]), [], ""  # intake says what is wrong with it
    states = {row.mask: _state(source, row.mask) for row in rows if row.mask}
    for row in rows:
        states |= _states(source, row.path)
    return digest({"manifest": manifest_state, "files": states}), rows, _awaited(list(states.values()))


def _states(source: Source, path: str) -> dict[str, list[str]]:
    """What a video's file looks like, or its folder with every frame in it, which fills while its name stands still."""
    state = _state(source, path)
    if state != ["folder"]:
        return {path: state}
    try:
        names = source.names(path)
    except (VideoError, FileNotFoundError):  # closed to us, or gone since
        return {path: state}
    frames = {f"{path}/{name!a}": _state(source, f"{path}/{name}") for name in names}  # a name may be no UTF-8
    return {path: state if RATE_FILE in names else [WITHOUT_RATE]} | frames


def _state(source: Source, path: str) -> list[str]:
    try:
        return source.state(path)
    except (FileNotFoundError, NotADirectoryError):
        return [MISSING]
    except VideoError as error:
        return [error.code]  # a link, a pipe: intake sets it aside


def _awaited(states: list[list[str]]) -> str:
    """What a batch waits for, in words without names."""
    if missing := states.count([MISSING]):
        return f"{missing} of the files it names are not there yet"
    if without_rate := states.count([WITHOUT_RATE]):
        return f"{without_rate} of the folders it names have no {RATE_FILE} yet"
    if writing := states.count(["still_written"]):
        return f"{writing} of the files it names are being written"
    return ""


def _checksums_hold(source: Source, rows: list[IncomingVideo]) -> bool:
    """Does every row carry its file's checksum? Then nothing is left to wait for."""
    return bool(rows) and all(row.sha256 and not row.mask and _sha256(source, row.path) == row.sha256 for row in rows)


def _sha256(source: Source, path: str) -> str:
    sha256 = hashlib.sha256()
    try:
        with source.open(path) as file:
            while chunk := file.read(CHUNK_BYTES):
                sha256.update(chunk)
    except (VideoError, OSError):
        return ""
    return sha256.hexdigest()


class _Notes:
    """The notes about one drop folder, on disk after every change."""

    def __init__(self, workspace: Workspace, path: Path, key: identity.Key) -> None:
        self.workspace = workspace
        self.path = path
        self.key = key
        self.notes = {name: Note(**note) for name, note in read_json(path).items()} if path.exists() else {}

    @classmethod
    def open(cls, workspace: Workspace, folder: str | Path) -> _Notes:
        number = workspace.settings().get("key_id")
        key = identity.key_for(number, has_rows=number is not None)
        place = sources.place(folder, Path.cwd())
        return cls(workspace, workspace.state / "drop" / f"{key.hmac(place, 'drop')[:16]}.json", key)

    def of_trouble(self, visit: Visit) -> Note:
        """The note of a batch that is not in; one that could not even be looked at gets one."""
        return self.get(visit.batch) or Note(looks="", since=time.time(), state="busy")

    def get(self, batch: str) -> Note | None:
        return self.notes.get(self._name(batch))

    def put(self, batch: str, note: Note) -> None:
        if self.get(batch) != note:
            self.notes[self._name(batch)] = note
            with exclusive(self.workspace, "drop"):
                remove_temporaries(self.path.parent)  # of a killed process
                write_json(self.path, {name: asdict(kept) for name, kept in self.notes.items()})

    def _name(self, batch: str) -> str:
        return self.key.hmac(batch, "batch")[:16]
