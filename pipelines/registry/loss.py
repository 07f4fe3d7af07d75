"""A registry that is lost must not be taken for a new one: its numbers would be given again, to other models."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines import ledger
from pipelines.errors import OutsideSystemError
from pipelines.workspace import Workspace


def noted(workspace: Workspace) -> list[str]:
    """Versions that the ledger knows, in the order of their registration."""
    entries = ledger.read(workspace.ledger) if workspace.ledger.exists() else []
    return list(dict.fromkeys(entry.data["version"] for entry in entries if entry.event == "registered"))


def refuse(workspace: Workspace, present: Iterable[str]) -> None:
    """Is there none of those that the ledger knows? One that somebody deleted is no loss of all."""
    known = noted(workspace)
    if known and not set(known) & set(present):
        raise error(known)


def error(known: list[str]) -> OutsideSystemError:
    versions = f"version {known[0]}" if len(known) == 1 else f"versions {known[0]} to {known[-1]}"
    return OutsideSystemError(
        "registry_lost",
        f"The registry is lost: the ledger knows {versions}, and it has none of them.",
        "Put the copy of mlflow.db and mlartifacts/ back, as docs/recovery.md says; if register.name in params.yaml "
        "changed, change it back. Without a copy their numbers cannot be given again: make a new workspace, and take "
        "the same videos in.",
    )
