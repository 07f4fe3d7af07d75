"""gc: free what no registered version and no branch needs any more.

Reads   git, the ledger, folder listings
Writes  deletes objects of the cache, and with ``remotes`` of the remotes; nothing with ``dry_run``
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipelines import object_stores, progress, versioning
from pipelines.errors import StageError
from pipelines.evidence import retention
from pipelines.evidence.commit import Commit
from pipelines.evidence.ledger_events import whole_ledger
from pipelines.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Freed:
    kept: int
    freed: int
    bytes: int
    dry_run: bool

    def as_json(self) -> dict[str, Any]:
        return {"schema": "gc/1"} | asdict(self)


def run(workspace: Workspace, *, remotes: bool, dry_run: bool) -> Freed:
    """Keep every object of the registered versions' commits and of the tips of all branches."""
    needed = {stored.md5 for stored in retention.objects(_kept(workspace))}
    stores = [object_stores.cache(workspace)]
    if remotes:
        stores += [object_stores.remote(workspace, name) for name in versioning.remotes(workspace)]
    count = size = 0
    for store in stores:
        loose = [(md5, length) for md5, length in store.list() if md5 not in needed]
        with progress.track(f"free {store.name}", len(loose), "objects") as tracker:
            for md5, length in loose:
                count, size = count + 1, size + length
                if not dry_run:
                    store.delete(md5)
                tracker.advance()
    return Freed(kept=len(needed), freed=count, bytes=size, dry_run=dry_run)


def _kept(workspace: Workspace) -> list[Commit]:
    registered = {str(entry.data["commit"]) for entry in whole_ledger(workspace) if entry.event == "registered"}
    kept = [Commit(workspace, sha) for sha in sorted(registered | set(versioning.tips(workspace)))]
    lost = [commit.sha for commit in kept if commit.unlisted]
    if lost:
        raise StageError(
            "listing_lost",
            f"What commit {lost[0][:12]} needs cannot be known: the listing of a folder is lost.",
            "Run `lclsc audit` on it and restore the listing first; nothing was deleted.",
        )
    return kept
