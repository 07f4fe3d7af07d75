"""Copies of DVC objects whose bytes are not those that their name says: found by hashing, replaced by a sound copy.

DVC does not look again at what it has stored: ``dvc fetch``, ``push`` and ``checkout`` replace nothing that was
altered in its place.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipelines import object_stores, progress
from pipelines.doctor.finding import Finding
from pipelines.errors import StageError
from pipelines.evidence import retention, withdrawals
from pipelines.evidence.audit import head
from pipelines.evidence.check import DAMAGE
from pipelines.evidence.commit import StoredObject
from pipelines.evidence.ledger_events import entries_of
from pipelines.evidence.object_checks import INPUTS, READERS
from pipelines.files import md5_file, replace_file, temporary_folder
from pipelines.object_stores import ObjectStore
from pipelines.workspace import Workspace

NAME = "DVC objects"
SHOWN = 3
TAKEN_IN = tuple(f"{folder}/" for folder in INPUTS)


class Copy(Protocol):
    """One place where an object lies, or could lie."""

    @property
    def label(self) -> str: ...

    def md5(self) -> str | None:
        """Of its bytes; None where it does not lie there."""
        ...

    def get(self, file: Path) -> None: ...

    def put(self, file: Path) -> None:
        """Take its place, whole or not at all."""
        ...


@dataclass(frozen=True)
class InStore:
    store: ObjectStore
    stored: StoredObject

    @property
    def label(self) -> str:
        return f"{self.store.name}: {self.stored.path}"

    def md5(self) -> str | None:
        return self.store.hash(self.stored.md5, "md5")

    def get(self, file: Path) -> None:
        self.store.get(self.stored.md5, file)

    def put(self, file: Path) -> None:
        self.store.put(self.stored.md5, file)


@dataclass(frozen=True)
class CheckedOut:
    """What was taken in. Outputs of stages are theirs: they verify what they read, and build it again."""

    path: Path
    label: str

    def md5(self) -> str | None:
        return md5_file(self.path) if self.path.is_file() else None

    def get(self, file: Path) -> None:
        shutil.copyfile(self.path, file)

    def put(self, file: Path) -> None:
        replace_file(self.path, file)


@dataclass(frozen=True)
class Object:
    """An object, and its copies: in the cache, in its remote, in the workspace."""

    md5: str
    copies: tuple[Copy, ...]

    def damaged(self) -> list[Copy]:
        return [copy for copy in self.copies if copy.md5() not in (None, self.md5)]

    def sound(self, file: Path) -> bool:
        """Write its bytes to ``file``; False where no copy has them."""
        for copy in self.copies:
            if copy.md5() == self.md5:
                copy.get(file)
                return md5_file(file) == self.md5
        return False


Damaged = list[tuple[Object, list[Copy]]]
"""Objects, each with those of its copies that are not sound."""


def finding(workspace: Workspace) -> Finding:
    """Every object that any commit names, in every place. Reads all of them."""
    try:
        objects = list(_objects(workspace))
        damaged = _damaged(objects)
    except DAMAGE as error:
        return Finding(NAME, False, str(error), "Mend what is named, or ask `lclsc audit` for all of it.")
    labels = [copy.label for _, copies in damaged for copy in copies]
    return Finding(
        NAME,
        not damaged,
        _listed("damaged", labels) if damaged else f"all {len(objects)} are what their names say",
        "Run `lclsc doctor --deep --repair`: it puts a sound copy in their place.",
        lambda: _mend(damaged, workspace.state),
    )


def _listed(what: str, labels: list[str]) -> str:
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return f"{len(labels)} {what}: {', '.join(labels[:SHOWN])}{more}"


def _objects(workspace: Workspace) -> Iterator[Object]:
    gone = withdrawals.of(entries_of(workspace)).objects
    named = {stored.md5: stored for stored in retention.named(retention.commits(workspace)).objects}
    cache = object_stores.cache(workspace)
    remotes = {name: object_stores.remote(workspace, name) for name in {stored.remote for stored in named.values()}}
    inputs = {stored.md5: stored for stored in head(workspace).commit.objects if stored.path.startswith(TAKEN_IN)}
    for md5, stored in sorted(named.items()):
        if md5 in gone:
            continue
        stores = [store for store in (cache, remotes[stored.remote]) if not store.unreachable]
        copies: list[Copy] = [InStore(store, stored) for store in stores]
        if md5 in inputs:
            path = inputs[md5].path
            copies.append(CheckedOut(workspace.root / path, f"workspace: {path}"))
        yield Object(md5=md5.removesuffix(".dir"), copies=tuple(copies))


def _damaged(objects: list[Object]) -> Damaged:
    with progress.track("hash", len(objects), "objects") as tracker, ThreadPoolExecutor(READERS) as pool:
        found = []
        for one, copies in zip(objects, pool.map(Object.damaged, objects), strict=True):
            tracker.advance()
            found += [(one, copies)] if copies else []
        return found


def _mend(damaged: Damaged, state: Path) -> str:
    """StageError where an object has no sound copy left; the others are mended all the same."""
    replaced, lost = 0, list[str]()
    with temporary_folder(state) as folder:
        file = folder / "object"
        for one, copies in damaged:
            if not one.sound(file):
                lost += [copy.label for copy in copies]
                continue
            for copy in copies:
                copy.put(file)
            replaced += len(copies)
    if lost:
        raise StageError(
            "no_sound_copy",
            f"{replaced} were replaced; {_listed('have no sound copy', lost)}.",
            "Restore them from a backup of the remote; frames and models can be built again from the videos.",
        )
    return f"{replaced} replaced by a sound copy"
