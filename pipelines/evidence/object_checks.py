"""Are the bytes that a commit names where they should be? Every object, in cache and remote, hashed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pipelines import object_stores
from pipelines.errors import StoreUnreachableError
from pipelines.evidence.check import Check, Problem, checked, unless_moving
from pipelines.evidence.commit import Commit, StoredObject
from pipelines.object_stores import ObjectStore
from pipelines.workspace import Workspace

Thing = TypeVar("Thing")
INPUTS = ("videos", "masks")
READERS = 2  # hashing leaves Python's lock; more threads than cores gain nothing


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Which objects to read: all, or ``size`` of them, drawn by ``seed``."""

    size: int | None = None
    seed: int = 0

    def of(self, things: Sequence[Thing]) -> list[Thing]:
        if self.size is None or self.size >= len(things):
            return list(things)
        return random.Random(self.seed).sample(list(things), self.size)  # noqa: S311 (no secret)


def check_objects(
    commit: Commit, *, sample: Sample, gone: Collection[str], advance: Callable[[int], None]
) -> Iterator[Check]:
    """``gone`` are objects that a withdrawal purged: nobody may expect them. ``advance`` counts what was read."""
    wanted = [stored for stored in commit.objects if stored.md5 not in gone]
    chosen = sample.of(wanted)
    of = f"{len(chosen)} of {len(wanted)} objects" if len(chosen) < len(wanted) else f"{len(wanted)} objects"
    stores = {name: object_stores.remote(commit.workspace, name) for name in {stored.remote for stored in wanted}}
    cache = object_stores.cache(commit.workspace)
    lost = [
        Problem(object=folder.path, expected=f"the listing {folder.md5}", found="no intact copy", unknown=True)
        for folder in commit.unlisted
    ]
    in_cache = _problems(chosen, lambda _: cache, advance)
    yield from checked("objects_in_cache", of, [*lost, *in_cache])
    yield from checked("objects_in_remote", of, _problems(chosen, lambda stored: stores[stored.remote], advance))


def check_places(
    commit: Commit,
    here: Commit,
    *,
    sample: Sample,
    gone: Collection[str],
    moving: Callable[[], bool],
    advance: Callable[[int], None],
) -> Iterator[Check]:
    """The files that the next stage will read, where the commit checked out (``here``) has the same.

    A clone need not check anything out, and outputs can be made again: what is not there is a finding where others of
    its folder of inputs are. ``moving``: it may be in the making.
    """
    now = {(stored.path, stored.md5) for stored in here.objects}
    wanted = [stored for stored in commit.objects if stored.md5 not in gone and not stored.md5.endswith(".dir")]
    chosen = [stored for stored in sample.of(wanted) if (stored.path, stored.md5) in now]
    root = commit.workspace.root
    there = [stored for stored in chosen if (root / stored.path).is_file()]
    with ThreadPoolExecutor(READERS) as pool:
        found = [problem for problem in pool.map(partial(_look_at_file, root), there) if problem is not None]
    absent, lost = _missing(commit.workspace, [stored for stored in wanted if (stored.path, stored.md5) in now])
    of = f"{len(there)} files" + (f"; {' and '.join(absent)} not checked out" if absent else "")
    yield from checked("objects_in_place", of, unless_moving([*found, *lost], moving))
    advance(len(sample.of(commit.objects)))


def _missing(workspace: Workspace, wanted: Sequence[StoredObject]) -> tuple[list[str], list[Problem]]:
    """Folders of inputs of which nothing is there, and files that others lack although they were fetched."""
    absent, lost = list[str](), list[Problem]()
    for folder in INPUTS:
        files = [stored for stored in wanted if stored.path.startswith(f"{folder}/")]
        gone = [stored for stored in files if not (workspace.root / stored.path).is_file()]
        if gone and len(gone) == len(files):
            absent.append(folder)
            continue
        for stored in (one for one in gone if object_stores.is_cached(workspace, one.md5)):
            name = f"workspace: {stored.path} ({stored.md5})"
            lost.append(Problem(object=name, expected=_strongest(stored)[1], found="missing"))
    return absent, lost


def _look_at_file(root: Path, stored: StoredObject) -> Problem | None:
    algorithm, expected = _strongest(stored)
    try:
        with (root / stored.path).open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
    except FileNotFoundError:
        return None
    if found == expected:
        return None
    return Problem(object=f"workspace: {stored.path} ({stored.md5})", expected=expected, found=found)


def _strongest(stored: StoredObject) -> tuple[str, str]:
    """Algorithm and hash of the strongest name that an object is known by."""
    return ("sha256", stored.sha256) if stored.sha256 else ("md5", stored.md5.removesuffix(".dir"))


def _problems(
    objects: Sequence[StoredObject], store_of: Callable[[StoredObject], ObjectStore], advance: Callable[[int], None]
) -> Iterator[Problem]:
    with ThreadPoolExecutor(READERS) as pool:
        for problem in pool.map(partial(_look, store_of), objects):
            advance(1)
            if problem is not None:
                yield problem


def _look(store_of: Callable[[StoredObject], ObjectStore], stored: StoredObject) -> Problem | None:
    """Each object is read once."""
    store = store_of(stored)
    name = f"{store.name}: {stored.path} ({stored.md5})"
    algorithm, expected = _strongest(stored)
    try:
        found = store.hash(stored.md5, algorithm)
    except StoreUnreachableError as error:
        return Problem(object=name, expected=expected, found=error.cause, unknown=True)
    return None if found == expected else Problem(object=name, expected=expected, found=found or "missing")
