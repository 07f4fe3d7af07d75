"""What must be the same after a fault as without one: outputs, commits, versions, aliases, and nothing left over."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from pipelines import ledger
from pipelines.files import TEMPORARY_PREFIX, md5_bytes, sha256_file
from pipelines.workspace import Workspace

NOT_COMPARED = {"ledger.jsonl", "provenance.csv"}
"""They carry the time; the ledger's events are compared one by one."""
OUTPUTS = ("data", "models", "videos", "masks")
REPORTS = ("extract.json", "train.json", "evaluate.json", "predictions.parquet")


def gather(place: Workspace) -> dict[str, Any]:
    """Everything that two runs of the same step must agree on, without times and ids that are drawn."""
    return {
        "outputs": _outputs(place.root),
        "committed": _tree(place.root),
        "open": _git(place.root, "status", "--porcelain").splitlines(),
        "pushed": _pushed(place.root),
        "objects": _objects(place.root),
        "ledger": _ledger(place),
        "registry": _registry(place),
        "left over": _left_over(place.root),
    }


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """One sentence for each thing that is not as it should be."""
    told = []
    for name, wanted in expected.items():
        if found[name] != wanted:
            told.append(f"{name}: {_difference(wanted, found[name])}")
    return told


def _difference(wanted: Any, found: Any) -> str:
    if isinstance(wanted, dict) and isinstance(found, dict):
        names = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        return "; ".join(f"{name} is {found.get(name)!r}, not {wanted.get(name)!r}" for name in names)[:600]
    return f"{found!r}, not {wanted!r}"[:600]


def _outputs(root: Path) -> dict[str, str]:
    files = [path for name in OUTPUTS for path in (root / name).rglob("*") if path.is_file()]
    files += [path for name in REPORTS if (path := root / "reports" / name).exists()]
    return {str(path.relative_to(root)): sha256_file(path)[:16] for path in sorted(files)}


def _tree(root: Path) -> dict[str, str]:
    lines = _git(root, "ls-tree", "-r", "HEAD").splitlines()
    found = {line.split("\t")[1]: line.split()[2][:16] for line in lines}
    return {name: blob for name, blob in found.items() if name not in NOT_COMPARED}


def _pushed(root: Path) -> bool:
    return _git(root, "rev-parse", "HEAD") == _git(root, "ls-remote", "origin", "refs/heads/main")[:40]


def _objects(root: Path) -> dict[str, str]:
    """In the remotes, and whether each is whole: an object's name is its MD5. Hidden ones are DVC's temporaries."""
    files = sorted(path for path in (root / "remotes").rglob("[!.]*") if path.is_file())
    return {str(path.relative_to(root)): "whole" if _is_whole(path) else "damaged" for path in files}


def _is_whole(path: Path) -> bool:
    return md5_bytes(path.read_bytes()) == (path.parent.name + path.name).removesuffix(".dir")


def _ledger(place: Workspace) -> dict[str, Any]:
    entries = ledger.read(place.ledger)
    events = Counter(f"{entry.event} {entry.subject}" for entry in entries)
    return {"problems": ledger.verify(place.ledger), **events}


def _registry(place: Workspace) -> dict[str, Any]:
    """Versions, aliases, runs and packages; what belongs to no version is named as an orphan."""
    with closing(sqlite3.connect(f"file:{place.tracking_database}?mode=ro", uri=True)) as database:
        ask = lambda query: database.execute(query).fetchall()  # noqa: E731
        tags = ask("SELECT version, key, value FROM model_version_tags WHERE key IN ('weights_sha256', 'registration')")
        aliases = ask("SELECT alias, version FROM registered_model_aliases")
        versions = [number for (number,) in ask("SELECT version FROM model_versions ORDER BY version")]
        models = {model for (model,) in ask("SELECT model_id FROM logged_models WHERE lifecycle_stage = 'active'")}
        used = {source.removeprefix("models:/") for (source,) in ask("SELECT source FROM model_versions")}
        runs = Counter(status for (status,) in ask("SELECT status FROM runs WHERE lifecycle_stage = 'active'"))
    folders = {path.name for path in place.tracking_artifacts.glob("*/models/*") if path.is_dir()}
    folders |= {path.name for path in place.tracking_artifacts.glob("models/*") if path.is_dir()}
    return {
        "versions": versions,
        "tags": sorted(tags),
        "aliases": dict(sorted(aliases)),
        "runs": dict(runs),
        "orphan models": len(models - used),
        "orphan packages": len(folders - used),
        "champion": _package(place, "1"),
    }


def _package(place: Workspace, version: str) -> str:
    """SHA-256 over the files of a version's package."""
    with closing(sqlite3.connect(f"file:{place.tracking_database}?mode=ro", uri=True)) as database:
        query = "SELECT source FROM model_versions WHERE version = ?"
        (source,) = database.execute(query, (version,)).fetchone() or ("none",)
    (folder,) = [*place.tracking_artifacts.rglob(source.removeprefix("models:/")), None][:1]
    if folder is None:
        return "missing"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return json.dumps([sha256_file(path)[:8] for path in files])


def _left_over(root: Path) -> list[str]:
    """Half-written files and locks that stop the next command."""
    found = [path for path in root.rglob(f"{TEMPORARY_PREFIX}*") if ".git" not in path.parts]
    found += list((root / ".git").rglob("*.lock"))
    return sorted(str(path.relative_to(root)) for path in found)


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False).stdout.strip()
