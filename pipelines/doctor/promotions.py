"""Promotions: what a killed command left half done, and aliases that were moved behind the ledger."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines import promotion_repair
from pipelines.doctor.finding import Finding
from pipelines.errors import LclscError
from pipelines.workspace import Workspace


def findings(workspace: Workspace) -> Iterator[Finding]:
    try:
        found = promotion_repair.open_ends(workspace)
    except LclscError as error:
        yield Finding("promotions", False, error.cause, error.remedy)
        return

    def mend() -> str:
        return "; ".join(promotion_repair.run(workspace)) or "committed the ledger"

    yield Finding("promotions", not found, "; ".join(found) or "none half done", "Run `lclsc doctor --repair`.", mend)
