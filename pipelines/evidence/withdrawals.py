"""Whose consent was taken back, and which objects went with it, as the ledger tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipelines.ledger import Entry

PICTURES = ("report.html", "saliency_sheet.png")
"""Kept with a run, and showing frames of its test patients."""


@dataclass(frozen=True)
class Withdrawn:
    patients: frozenset[str]
    objects: frozenset[str]  # MD5 names of DVC objects that were purged
    versions: Mapping[str, frozenset[str]]
    """Of the model, that saw a patient in any split, also in a later evaluation: number -> these patients."""


def of(entries: Iterable[Entry]) -> Withdrawn:
    events = [entry for entry in entries if entry.event == "withdrawn"]
    return Withdrawn(
        patients=frozenset(entry.subject for entry in events),
        objects=frozenset(name for entry in events for name in entry.data.get("purged", [])),
        versions=_by_version(events),
    )


def _by_version(events: Iterable[Entry]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for entry in events:
        for number in entry.data.get("versions", []):
            found.setdefault(number, set()).add(entry.subject)
    return {number: frozenset(patients) for number, patients in found.items()}
