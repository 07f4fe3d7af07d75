"""Whose consent was taken back, and which objects went with it, as the ledger tells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.ledger import Entry

PICTURES = ("report.html", "saliency_sheet.png")
"""Kept with a run, and showing frames of its test patients."""


@dataclass(frozen=True)
class Withdrawn:
    patients: frozenset[str]
    objects: frozenset[str]  # MD5 names of DVC objects that were purged
    versions: frozenset[str]  # of the model, that saw one of the patients in any split


def of(entries: Iterable[Entry]) -> Withdrawn:
    events = [entry for entry in entries if entry.event == "withdrawn"]
    return Withdrawn(
        patients=frozenset(entry.subject for entry in events),
        objects=frozenset(name for entry in events for name in entry.data.get("purged", [])),
        versions=frozenset(number for entry in events for number in entry.data.get("versions", [])),
    )
