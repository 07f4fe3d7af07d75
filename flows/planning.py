"""What a retrain would do, and why: asked before anything heavy starts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pipelines import code_digest, exchange, hand_edits, keys, manifest, params, staging, versioning
from pipelines.errors import WrongUseError
from pipelines.workspace import Workspace


@dataclass(frozen=True)
class Plan:
    """Stages to run with their reasons, the key of the result, and the version that already has it."""

    retrain_key: str
    data_version: str
    stale: dict[str, list[str]]
    version: dict[str, Any] | None

    @property
    def up_to_date(self) -> bool:
        return not self.stale and self.version is not None


def require_workers(workspace: Workspace) -> None:
    """A wrong number of workers is told before anything runs."""
    asked = os.environ.get("LCLSC_WORKERS")
    shards = params.load(workspace.params).train.logical_shards
    if asked is not None and (not asked.isdigit() or int(asked) < 1 or shards % int(asked)):
        raise WrongUseError(
            "workers_do_not_divide",
            f"{asked!r} workers cannot share {shards} logical shards evenly.",
            f"Use a divisor of train.logical_shards ({shards}).",
        )


def refuse_open_edits(workspace: Workspace) -> None:
    """A run that nobody watches does not train on what somebody is still editing."""
    edited = versioning.open_edits(workspace)
    if edited:
        names = " and ".join(edited)
        raise WrongUseError(
            "open_edits",
            f"{names} was changed and not committed.",
            f"Commit it (`git commit {' '.join(edited)}`), or run `lclsc retrain` yourself.",
        )


def record_inputs(workspace: Workspace) -> None:
    """Bring in what others pushed, rewrite code.json, commit this system's own inputs."""
    staging.take_back(workspace)
    hand_edits.refuse(workspace)
    exchange.take_over(workspace)
    params.load(workspace.params)
    if not manifest.read_videos(workspace.manifest):
        raise WrongUseError(
            "no_videos",
            "This workspace holds no videos yet.",
            "Take some in: `lclsc intake SRC --workspace W`.",
        )
    code_digest.refresh(workspace)
    version = manifest.data_version(workspace.manifest, workspace.splits)
    versioning.commit(
        workspace, (*versioning.OWN_INPUTS, workspace.ledger.name), f"Record inputs: data version {version}"
    )


def make(workspace: Workspace) -> Plan:
    """Ask DVC what is stale and the registry what is there."""
    from pipelines import registry

    stale = {change.stage: change.reasons for change in versioning.stale_stages(workspace)}
    for stage in code_digest.changed_stages(workspace):  # none where code.json was just rewritten
        stale[stage] = [*stale.get(stage, []), "other code is installed than code.json describes"]
    key = keys.retrain_key(workspace)
    stages = versioning.stages(workspace)
    return Plan(
        retrain_key=key,
        data_version=manifest.data_version(workspace.manifest, workspace.splits),
        stale={name: stale[name] for name in stages if name in stale} | _inputs(stale, stages),
        version=None if stale else registry.complete_version(workspace, key),
    )


def _inputs(stale: dict[str, list[str]], stages: list[str]) -> dict[str, list[str]]:
    """``videos.dvc`` and ``masks.dvc``: changed behind intake's back."""
    return {name: reasons for name, reasons in stale.items() if name not in stages}


def refuse_untracked_changes(plan: Plan) -> None:
    """Videos that nobody took in must not slip into a data version."""
    for name in versioning.POINTERS:
        if name in plan.stale:
            raise WrongUseError(
                "videos_changed",
                f"The folder {name.removesuffix('.dvc')}/ was changed by hand: {', '.join(plan.stale[name])}.",
                "Restore it with `dvc checkout`, and take videos in with `lclsc intake`.",
            )


def up_to_date(plan: Plan) -> dict[str, Any]:
    """The report of a retrain with nothing to do."""
    assert plan.version is not None
    idle = {"state": "skipped", "reason": "nothing changed"}
    return {
        "schema": "retrain/1",
        "status": "up_to_date",
        "version": plan.version["version"],
        "aliases": plan.version["aliases"],
        "stages": dict.fromkeys(("extract", "train", "evaluate"), idle),
        "metrics": plan.version["metrics"],
        "error": None,
    }
