"""Diff: what changed between two versions, data versions or commits.

Reads   git, dvc.lock and tables of both commits; of versions their lineage record too
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines import lineage, registry
from pipelines.evidence.audit import Target, find_target, head
from pipelines.evidence.commit import Commit
from pipelines.registry import Registry
from pipelines.workspace import Workspace


def run(workspace: Workspace, one: str, two: str) -> dict[str, Any]:
    """``diff/1``: from ``one`` to ``two``; every part is empty where nothing changed."""
    with registry.read_only(workspace, head(workspace).commit.model_name) as store:
        versions = store.versions() if store else []
        sides = [find_target(workspace, versions, name) for name in (one, two)]
        before, after = (_facts(store, side) for side in sides)
    first, second = (side.commit for side in sides)
    return {
        "schema": "diff/1",
        "from": _side(sides[0]),
        "to": _side(sides[1]),
        "videos": _videos(first, second),
        "patients": _patients(first, second),
        "params": list(changes(first.params, second.params)),
        "code": list(changes(before["code"], after["code"])) + _both(before, after, "source"),
        "environment": _both(before, after, "environment"),
        "metrics": list(changes(before["metrics"], after["metrics"])),
    }


def _side(target: Target) -> dict[str, str]:
    return {"name": target.name, "commit": target.commit.sha, "data_version": target.commit.data_version}


def _facts(store: Registry | None, target: Target) -> dict[str, Any]:
    """Code, environment and metrics: of a version as recorded, of a commit as far as it tells."""
    commit = target.commit
    code = json.loads(commit.text("code.json") or "{}")
    if store and target.version:
        with store.package(target.version) as package:
            record = lineage.read(package)
        source = {"source.tar": record["source_tar_sha256"]}
        return {"code": code, "source": source, "environment": record["environment"], "metrics": record["metrics"]}
    report = commit.output("reports/evaluate.json")
    return {"code": code, "source": {}, "environment": {}, "metrics": json.loads(report)["metrics"] if report else {}}


def _both(before: Mapping[str, Any], after: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """Changes of what only versions have recorded; a commit says nothing of it."""
    return list(changes(before[part], after[part])) if before[part] and after[part] else []


def _videos(before: Commit, after: Commit) -> dict[str, Any]:
    """Videos that came and went, and those of which something else was said."""
    one, two = before.videos, after.videos
    kept = sorted(one.keys() & two.keys())
    changed = {
        video: list(changes(dataclasses.asdict(one[video]), dataclasses.asdict(two[video])))
        for video in kept
        if one[video] != two[video]
    }
    return {"added": sorted(two.keys() - one.keys()), "removed": sorted(one.keys() - two.keys()), "changed": changed}


def _patients(before: Commit, after: Commit) -> dict[str, Any]:
    one, two = ({video.patient_id for video in commit.videos.values()} for commit in (before, after))
    moved = {
        patient: {"from": before.splits[patient], "to": after.splits[patient]}
        for patient in sorted(before.splits.keys() & after.splits.keys())
        if before.splits[patient] != after.splits[patient]
    }
    return {"added": sorted(two - one), "removed": sorted(one - two), "moved": moved}


def changes(before: Any, after: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """Leaves that differ between two nested documents, by their dotted path."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            yield from changes(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
    elif before != after:
        yield {"key": path, "from": before, "to": after}
