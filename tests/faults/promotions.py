"""A workspace for promotions, made without training: tiny models that were registered for real and judged on paper."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny import build_and_seal, write_model

from pipelines import ledger, locks, params, params_file, promotion, registry, versioning
from pipelines.doctor import promotions as doctor_promotions
from pipelines.doctor import state
from pipelines.files import digest, write_json, write_text
from pipelines.registry import Registry, Submission, Version
from pipelines.workspace import Workspace, template_file


def build(
    root: Path,
    *,
    versions: int,
    database: Path | None = None,
    witness: Callable[[Workspace], None] | None = None,
    name: str = "lclsc",
) -> Workspace:
    """``versions`` complete versions of the model ``name``; the first is champion, and nothing else was judged."""
    workspace = empty(root)
    params_file.write(workspace.params, workspace.params, {"register": {"name": name}})
    if database is not None:  # making one takes seconds
        shutil.copyfile(database, workspace.tracking_database)
    for seed in range(versions):
        register(workspace, seed)
    if witness is not None:
        witness(workspace)
    judge(workspace, "1")
    promotion.keep(workspace, "Register")
    return workspace


def empty(root: Path) -> Workspace:
    root.mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", str(root)], check=True)
    write_text(root / ".gitignore", versioning.GITIGNORE)
    write_json(root / "workspace.json", {"format": 1, "key_id": None})
    shutil.copyfile(template_file("params.yaml"), root / "params.yaml")
    workspace = Workspace.open(root)
    versioning.commit(workspace, (".gitignore", "workspace.json", "params.yaml"), "Start")
    return workspace


def package(workspace: Workspace, seed: int) -> Path:
    """A sealed package whose weights follow from ``seed``; copied along with its workspace."""
    source = Workspace(workspace.state / "built" / str(seed))
    if not (source.root / "package").exists():
        write_model(source.weights.parent, seed=seed)
        build_and_seal(source, source.root / "package", git_commit=versioning.head(workspace))
    return source.root / "package"


def register(workspace: Workspace, seed: int, *, complete: bool = True) -> Version:
    """As a retrain does, from a built package to a complete version; its aliases are another step."""
    store = registry.connect(workspace)
    submission = Submission(
        key=f"{seed:064x}", train_key="t" * 64, data_version="0123456789ab", package=package(workspace, seed)
    )
    version = store.register(submission)
    data = {
        "version": version.version,
        "lineage_sha256": version.tags["lineage_sha256"],
        "commit": version.tags["git_commit"],
    }
    known = [entry.data.get("version") for entry in ledger.read(workspace.ledger) if entry.event == "registered"]
    if version.version not in known:
        data["trained_by"] = {"os_user": "trainer", "git_user": "Tim Trainer <tim@clinic.example>"}
        ledger.append(workspace, actor="retrain", event="registered", subject=f"version {version.version}", data=data)
    if complete:
        store.complete(version.version)
    return find(store, version.version)


def judge(workspace: Workspace, version: str, verdict: str = "passed", actor: str = "promote") -> ledger.Entry:
    """A verdict as the gate would write it, and the alias that follows from it."""
    store = registry.connect(workspace)
    rules = policy(workspace)
    champion = store.aliases().get("champion")
    decision = verdict_beside(rules, version, None if champion == version else champion, verdict)
    evidence = promotion.note_evidence(
        workspace, store, find(store, version), decision, key=f"{int(version) - 1:064x}", actor=actor
    )
    promotion.propose(workspace, store, version, evidence, rules, actor=actor)
    return evidence


def policy(workspace: Workspace) -> params.PromoteParams:
    return params.load(workspace.params).promote


def set_policy(workspace: Workspace, **changes: Any) -> None:
    params_file.write(workspace.params, workspace.params, {"promote": changes})


def repair(workspace: Workspace) -> list[str]:
    """As ``doctor --repair`` does it, of everything in the folder that needs no DVC."""
    with locks.one_writer(workspace):
        findings = [*state.findings(workspace), *doctor_promotions.findings(workspace)]
        return [one.mend() for one in findings if not one.ok and one.mend is not None]


def verdict_beside(rules: params.PromoteParams, version: str, champion: str | None, verdict: str) -> dict[str, Any]:
    return {
        "schema": "gate/1",
        "verdict": verdict,
        "clauses": [],
        "policy": rules.model_dump(),
        "policy_sha256": rules.sha256,
        "looks": {"test_sha256": digest(["a test video"])},
        "challenger": {"version": version, "metrics": {}},
        "champion": {"version": champion, "metrics": {}} if champion else None,
    }


def find(store: Registry, number: str) -> Version:
    found = store.version(number)
    assert found is not None
    return found


def copy(workspace: Workspace, root: Path) -> Workspace:
    """A real copy: git appends to its logs, SQLite writes in place. MLflow forgets where the runs were before."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()
    subprocess.run(["cp", "-a", str(workspace.root), str(root)], check=True)
    return Workspace.open(root)


def remove(workspace: Workspace) -> None:
    shutil.rmtree(workspace.root)
