"""gc: free what no registered version and no branch needs any more.

Reads   git (with ``remotes`` also what others pushed to it), the ledger, folder listings
Writes  deletes objects of the cache, and with ``remotes`` of the remotes; nothing with ``dry_run``

What cannot be read might need everything: then nothing is deleted.
"""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from typing import Any

from pipelines import alias_history, exchange, ledger, object_stores, progress, versioning
from pipelines.errors import StageError
from pipelines.evidence import retention
from pipelines.evidence.commit import Commit, WorkingTree
from pipelines.evidence.ledger_events import whole_ledger
from pipelines.ledger import Entry
from pipelines.object_stores import ObjectStore
from pipelines.workspace import Workspace

YOUNG = datetime.timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Freed:
    kept: int
    freed: int
    bytes: int
    spared: int  # of a shared remote, too young to be told from what another clone is just storing
    dry_run: bool

    def as_json(self) -> dict[str, Any]:
        return {"schema": "gc/1"} | asdict(self)


def run(workspace: Workspace, *, remotes: bool, dry_run: bool) -> Freed:
    """Keep every object of the registered versions' commits, of the tips of all branches and of the working tree."""
    if remotes:
        exchange.fetch_all(workspace)
    ledgers = _ledgers(workspace)
    if remotes:
        _require_promoter(workspace, ledgers)
    needed = _needed(workspace, ledgers)
    stores = retention.stores(workspace, versioning.remotes(workspace) if remotes else ())
    count = size = spared = 0
    for store in stores:
        loose = sorted((md5.endswith(".dir"), md5, length) for md5, length in store.list() if md5 not in needed)
        shared = _is_shared(workspace, store)
        with progress.track(f"free {store.name}", len(loose), "objects") as tracker:
            for _, md5, length in loose:  # listings last: killed half way, what is left can still be named
                tracker.advance()
                if shared and _is_young(store, md5):
                    spared += 1
                    continue
                count, size = count + 1, size + length
                if not dry_run:
                    store.delete(md5)
    return Freed(kept=len(needed), freed=count, bytes=size, spared=spared, dry_run=dry_run)


def _is_shared(workspace: Workspace, store: ObjectStore) -> bool:
    """Do other clones store there too? They push objects before the commit that needs them."""
    return store.name != object_stores.CACHE and not versioning.lies_inside(workspace, store.name)


def _is_young(store: ObjectStore, md5: str) -> bool:
    return datetime.datetime.now(datetime.UTC) - store.modified(md5) < YOUNG


def _ledgers(workspace: Workspace) -> list[list[Entry]]:
    """The ledger as it stands and as each branch has it: a file that was lost or cut off here hides no version."""
    found = [whole_ledger(workspace)]
    for sha in versioning.tips(workspace):
        try:
            found.append(ledger.parse(versioning.file_at(workspace, sha, "ledger.jsonl") or b""))
        except StageError as error:
            raise StageError(
                error.code,
                f"Commit {sha[:12]}, a branch or a tag: {error.cause}",
                "Commit a whole ledger.jsonl there, or delete that branch or tag; nothing was deleted.",
            ) from None
    return found


def _require_promoter(workspace: Workspace, ledgers: list[list[Entry]]) -> None:
    """Remotes are shared: the workspace that moves the aliases is the one that frees them."""
    named = alias_history.promoter(max(ledgers, key=len))
    if named not in (None, versioning.clone_id(workspace)):
        raise StageError(
            "not_promoting",
            f"The remotes are freed by the workspace that moves the aliases ({str(named)[:8]}), and this is another.",
            "Run it there, or without --remotes to free this workspace's cache only; nothing was deleted.",
        )


def _needed(workspace: Workspace, ledgers: list[list[Entry]]) -> set[str]:
    found = retention.named(_kept(workspace, ledgers))
    if found.lost:
        raise StageError(
            "listing_lost",
            f"What {found.lost[0]} needs cannot be known: the listing of a folder is lost.",
            "Run `lclsc audit` on it and restore the listing first; nothing was deleted.",
        )
    return {stored.md5 for stored in found.objects}


def _kept(workspace: Workspace, ledgers: list[list[Entry]]) -> list[Commit]:
    entries = (entry for one in ledgers for entry in one if entry.event == "registered")
    registered = {str(entry.data.get("commit")): entry.subject for entry in entries}
    for sha, version in sorted(registered.items()):
        if versioning.find_commit(workspace, sha) is None:
            raise StageError(
                "commit_missing",
                f"What {version} needs cannot be known: its commit {sha[:12]} is not in this clone.",
                "Fetch the branch that holds it (a shallow clone: `git fetch --unshallow`); nothing was deleted.",
            )
    commits = [Commit(workspace, sha) for sha in sorted({*registered, *versioning.tips(workspace)})]
    return [*commits, WorkingTree(workspace)]
