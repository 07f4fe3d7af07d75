"""What a workspace holds, from its own small files: answers without Prefect, Ray, torch or MLflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipelines import alias_history, locks, manifest, versioning
from pipelines.evidence import withdrawals
from pipelines.evidence.ledger_events import entries_of
from pipelines.files import read_json, write_json
from pipelines.ledger import Entry
from pipelines.workspace import Workspace


def run(workspace: Workspace, *, verify: bool = False) -> dict[str, Any]:
    """``status/1``: data, last result, who works here; with ``verify`` what DVC finds stale."""
    videos = manifest.read_videos(workspace.manifest)
    splits = manifest.read_splits(workspace.splits)
    report: dict[str, Any] = {
        "schema": "status/1",
        "data_version": manifest.version_of(videos, splits),
        "videos": len(videos),
        "patients": len({video.patient_id for video in videos}),
        "labels": _per_label(videos, splits),
        "last_result": last_result(workspace),
        "versions": _versions(entries_of(workspace)),
        "working": locks.holder(workspace),
        "quarantined": len(list(workspace.quarantine.glob("*.json"))) if workspace.quarantine.exists() else 0,
    }
    if verify:
        stale = versioning.stale_stages(workspace)
        report["stale"] = {change.stage: change.reasons for change in stale}
        report["hand_edits"] = versioning.hand_edits(workspace)
    return report


def _versions(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Registered versions as the ledger tells of them, oldest first."""
    words = alias_history.last_words(entries)
    withdrawn = withdrawals.of(entries).versions
    verdicts = {entry.subject: entry.data["verdict"] for entry in entries if entry.event == "gated"}
    return [
        {
            "version": entry.data["version"],
            "registered": entry.at,
            "verdict": verdicts.get(entry.subject),
            "aliases": sorted(alias for alias, version in words.items() if version == entry.data["version"]),
            "withdrawn": entry.data["version"] in withdrawn,
        }
        for entry in entries
        if entry.event == "registered"
    ]


def remember_result(workspace: Workspace, result: dict[str, Any]) -> None:
    """Keep the newest retrain report where ``status`` finds it at once; the registry stays the truth."""
    write_json(workspace.state / "last_result.json", result)


def last_result(workspace: Workspace) -> dict[str, Any] | None:
    path = workspace.state / "last_result.json"
    return dict(read_json(path)) if path.exists() else None


def _per_label(videos: list[manifest.Video], splits: dict[str, str]) -> dict[str, dict[str, int]]:
    """Videos and, for each split, patients of every label."""
    labels: dict[str, dict[str, int]] = {}
    for label, count in sorted(Counter(video.label for video in videos).items()):
        patients = {video.patient_id for video in videos if video.label == label}
        per_split = Counter(splits[patient] for patient in patients if patient in splits)
        labels[label] = {"videos": count} | {split: per_split[split] for split in manifest.SPLITS}
    return labels
