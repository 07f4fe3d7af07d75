"""Which DVC objects belong to whom, over the whole history; and how they are removed.

Reads   git history of dvc.lock and the pointer files, and the folder listings they name
Writes  with ``remove``: objects of the cache and of the remotes are deleted
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from pipelines import object_stores, versioning
from pipelines.evidence.commit import POINTERS, Commit, StoredObject
from pipelines.workspace import Workspace


def commits(workspace: Workspace) -> Iterator[Commit]:
    """Every commit of any branch at which the objects named by git changed."""
    for sha in versioning.commits_touching(workspace, ("dvc.lock", *POINTERS), everywhere=True):
        yield Commit(workspace, sha)


def objects(found: Iterable[Commit]) -> set[StoredObject]:
    return {stored for commit in found for stored in commit.objects}


def of_videos(found: Collection[StoredObject], videos: Collection[str]) -> set[StoredObject]:
    """Objects that hold pixels of these videos, unless other paths share their bytes."""
    own = {stored for stored in found if _video_of(stored.path) in videos}
    shared = {stored.md5 for stored in found if stored not in own}
    return {stored for stored in own if stored.md5 not in shared}


def _video_of(path: str) -> str:
    """videos/<id>.mp4, videos/<id>/0.png, masks/<id>.tif, data/frames/<id>-<recipe>.parquet and so on: the id."""
    folders = ("videos/", "masks/", "data/frames/", "data/masks/")
    folder = next((folder for folder in folders if path.startswith(folder)), None)
    return "" if folder is None else path.removeprefix(folder).split("/")[0].split(".")[0].split("-")[0]


def remove(workspace: Workspace, names: Collection[StoredObject], advance: Callable[[int], None]) -> int:
    """Delete objects from cache and remotes; what is gone already is no matter. Returns how many files went."""
    removed = 0
    cache = object_stores.cache(workspace)
    remotes = {name: object_stores.remote(workspace, name) for name in versioning.remotes(workspace)}
    for stored in sorted(names, key=lambda one: one.md5):
        removed += cache.delete(stored.md5) + sum(store.delete(stored.md5) for store in remotes.values())
        advance(1)
    return removed
