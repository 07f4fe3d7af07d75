"""Which DVC objects belong to whom, over the whole history; and how they are removed.

Reads   git history of dvc.lock and the pointer files, these files as they stand, and the folder listings they name
Writes  with ``remove``: objects of the cache and of the remotes are deleted
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from pipelines import object_stores, versioning
from pipelines.errors import StageError
from pipelines.evidence.commit import Commit, StoredObject
from pipelines.object_stores import ObjectStore
from pipelines.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Named:
    """What commits name; ``lost`` are the labels of those with a folder whose listing no store has."""

    objects: set[StoredObject]
    lost: list[str]


def commits(workspace: Workspace) -> Iterator[Commit]:
    """Every commit of any branch at which the objects named by git changed."""
    for sha in versioning.commits_touching(workspace, ("dvc.lock", *versioning.POINTERS), everywhere=True):
        yield Commit(workspace, sha)


def named(found: Iterable[Commit]) -> Named:
    """The objects that any of them names. StageError where one's files cannot be read."""
    objects: set[StoredObject] = set()
    lost = []
    for commit in found:
        try:
            objects.update(commit.objects)
            lost += [commit.label] if commit.unlisted else []
        except (StageError, ValueError, KeyError, TypeError):
            raise StageError(
                "pointers_damaged",
                f"What {commit.label} needs cannot be known: dvc.lock or a .dvc file of it is damaged.",
                "Restore the file with git, a merge may have left its marks in it; nothing was deleted.",
            ) from None
    return Named(objects=objects, lost=lost)


def stores(workspace: Workspace, remotes: Iterable[str]) -> list[ObjectStore]:
    """The cache and these remotes, each of which answers. StoreUnreachableError names one that does not.

    A folder that was never made is left out: it holds nothing. Before dvc.lock is first committed nothing was pushed
    to a remote; later on, one that is not there is a disk that is not mounted.
    """
    pushed = bool(versioning.commits_touching(workspace, ("dvc.lock",), everywhere=True))
    cache = object_stores.cache(workspace)
    found = [] if cache.absent else [cache]
    for store in (object_stores.remote(workspace, name) for name in remotes):
        if pushed or not store.absent:
            found.append(store)
    for store in found:
        store.require()
    return found


def refuse_unnamed(found: Named, places: Iterable[ObjectStore]) -> None:
    """Where a listing is lost, a stored object that no other names may be anybody's."""
    if not found.lost:
        return
    known = {stored.md5 for stored in found.objects}
    if any(md5 not in known for store in places for md5, _ in store.list()):
        raise StageError(
            "listing_lost",
            f"The listing of a folder of {found.lost[0]} is lost, and objects are stored that nothing else names: "
            "whose they are cannot be known.",
            "Restore the listing (`lclsc audit` names it), or let `lclsc gc --remotes` delete what nothing needs (in a "
            "shared remote once it is a day old), and try again; nothing was changed.",
        )


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


def remove(places: Collection[ObjectStore], names: Collection[StoredObject], advance: Callable[[int], None]) -> int:
    """Delete objects from all of ``places``; what is gone already is no matter. Returns how many files went."""
    removed = 0
    for stored in sorted(names, key=lambda one: one.md5):
        removed += sum(store.delete(stored.md5) for store in places)
        advance(1)
    return removed
