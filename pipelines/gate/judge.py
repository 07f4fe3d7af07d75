"""Judge a registered version: gather scores and evidence, decide, and say it as gate.json.

Reads   registry, git and DVC of the version's commit, data/test.csv, videos/, ledger.jsonl
Writes  nothing but the cache of scores
Params  promote, card
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from pipelines import frames, ledger, lineage, manifest, versioning
from pipelines.errors import LclscError, OutsideSystemError, StageError
from pipelines.evidence import withdrawals
from pipelines.evidence.audit import Target, check_target, target_of
from pipelines.evidence.check import Check, Problem, checked, differing, guarded
from pipelines.evidence.commit import Commit
from pipelines.evidence.ledger_checks import check_ledger
from pipelines.evidence.ledger_events import entries_of
from pipelines.files import md5_bytes
from pipelines.gate import decision, looks, measured, seeds, serving_cost
from pipelines.gate.contestant import Contestant, contestant
from pipelines.gate.evidence import Evidence
from pipelines.manifest import Video
from pipelines.params import Params
from pipelines.registry import Registry, Version
from pipelines.workspace import Workspace

MODEL = ("models/model.safetensors", "models/model.json")
EVALUATION, PREDICTIONS = "reports/evaluate.json", "reports/predictions.parquet"
NOT_YET = frozenset({"registration"})
"""What a version has only after its first verdict."""


def judge(workspace: Workspace, params: Params, store: Registry, version: Version) -> dict[str, Any]:
    """``gate/1``: the version beside the champion, both through their own packages on the current test videos."""
    test = frames.read_table(workspace.test_table)
    champion = store.alias_version("champion")
    rival = champion if champion and champion.version != version.version else None
    evidence = _evidence(workspace, params, store, version, rival)
    try:
        package = store.download(version)
        mine = _contestant(workspace, version, package, test)
    except (StageError, OutsideSystemError) as error:
        if error.code == "video_not_scored" or error.transient:
            raise
        result = decision.refuse(
            params.promote,
            challenger=_name(version),
            champion=_name(rival) if rival else None,
            cause=error.cause,
            evidence=evidence,
        )
        sides: dict[str, Any] = {"challenger": _side(version, {}), "champion": _side(rival, {}) if rival else None}
        return result.as_json() | sides | _looks(workspace, params, version, test)
    theirs = _contestant(workspace, rival, store.download(rival), test) if rival else None
    if measured.asked(params.promote):
        evidence = _with_cost(evidence, package)
    result = decision.decide(
        params.promote,
        challenger=mine,
        champion=theirs,
        test=test,
        evidence=evidence,
        siblings=_siblings(workspace, store, version, test) if params.promote.min_seeds is not None else (),
    )
    sides = {
        "challenger": _side(version, decision.figures(mine, test, params.promote)),
        "champion": _side(rival, decision.figures(theirs, test, params.promote)) if rival and theirs else None,
    }
    return result.as_json() | sides | _looks(workspace, params, version, test)


def _contestant(workspace: Workspace, version: Version, package: Path, test: pd.DataFrame) -> Contestant:
    files = workspace.video_files()
    videos = {video_id: files[video_id] for video_id in test.video_id}
    return contestant(_name(version), package, videos, workspace.state / "scores")


def _siblings(workspace: Workspace, store: Registry, version: Version, test: pd.DataFrame) -> list[Contestant]:
    others = {one.version: one for one in store.versions() if one.complete and one.version != version.version}
    packages = {name: store.download(one) for name, one in others.items()}
    records = {name: lineage.read(package) for name, package in packages.items()}
    names = seeds.siblings(lineage.read(store.download(version)), records)
    return [_contestant(workspace, others[name], packages[name], test) for name in names]


def _side(version: Version, figures: Mapping[str, Any]) -> dict[str, Any]:
    nothing: dict[str, Any] = {"metrics": {}, "intervals": {}, "reliability": [], "confusion": None}
    return {"version": version.version} | nothing | dict(figures)


def _looks(workspace: Workspace, params: Params, version: Version, test: pd.DataFrame) -> dict[str, Any]:
    name = looks.test_digest(test.video_id)
    entries = ledger.read(workspace.ledger)
    return {"looks": looks.as_json(entries, name, _name(version), most=params.promote.max_looks)}


def _name(version: Version) -> str:
    return f"version {version.version}"


# --- evidence --------------------------------------------------------------------------------------


def _evidence(
    workspace: Workspace, params: Params, store: Registry, version: Version, rival: Version | None
) -> Evidence:
    target = target_of(workspace, version)
    commit = target.commit
    evaluated = _evaluated(workspace, version, commit)
    report, predictions = (evaluated.output(path) for path in (EVALUATION, PREDICTIONS))
    return Evidence(
        checks=list(_checks(workspace, store, target, version, evaluated)),
        videos=_videos(workspace, [version, *([rival] if rival else [])]),
        recorded=None if predictions is None else _predictions(predictions),
        classes=_classes(commit),
        figures=_figures(report, version),
        card=params.card.model_dump(),
    )


def _evaluated(workspace: Workspace, version: Version, commit: Commit) -> Commit:
    """The newest commit that evaluates this model: new test patients evaluate an old version anew."""
    newest = Commit(workspace, versioning.head(workspace))
    is_same = all(_md5(newest, path) == _md5(commit, path) for path in MODEL)
    return newest if is_same and _figures(newest.output(EVALUATION), version) is not None else commit


def _figures(report: bytes | None, version: Version) -> dict[str, Any] | None:
    """Metrics of an evaluation of this version's weights."""
    found = json.loads(report) if report is not None else {}
    return dict(found["metrics"]) if found.get("weights_sha256") == version.tags["weights_sha256"] else None


def _predictions(content: bytes) -> pd.DataFrame:
    columns = ["video_id", "frame_index", "probabilities", "keep"]
    table: pd.DataFrame = pq.read_table(io.BytesIO(content), columns=columns).to_pandas()
    return table


def _classes(commit: Commit) -> list[str]:
    card = commit.output("models/model.json")
    return [] if card is None else list(json.loads(card)["classes"])


def _videos(workspace: Workspace, versions: list[Version]) -> dict[str, Video]:
    """Of today's manifest and of those that the versions were built from: a patient may have withdrawn since."""
    found: dict[str, Video] = {}
    for one in versions:
        found |= target_of(workspace, one).commit.readable_videos
    return found | {video.video_id: video for video in manifest.read_videos(workspace.manifest)}


def _checks(
    workspace: Workspace, store: Registry, target: Target, version: Version, evaluated: Commit
) -> Iterator[Check]:
    """The audit of one version, without hashing every object of its commit anew."""
    entries = entries_of(workspace)
    yield from check_ledger(workspace)
    checks = check_target(store, target, entries, withdrawals.of(entries))
    yield from (check for check in checks if check.name not in NOT_YET)
    copies = checked("metrics", _name(version), _edited(workspace, store, version, target.commit, evaluated))
    yield from guarded("metrics", _name(version), copies)


def _edited(
    workspace: Workspace, store: Registry, version: Version, commit: Commit, evaluated: Commit
) -> Iterator[Problem]:
    """Copies of the evaluation that people read say what the pipeline wrote."""
    kept = store.run_artifact(version.run_id, Path(EVALUATION).name)
    yield from differing(f"evaluate.json of run {version.run_id}", _md5(commit, EVALUATION), kept and md5_bytes(kept))
    here = workspace.stage_report("evaluate")
    if evaluated.sha == versioning.head(workspace):
        yield from differing(
            EVALUATION, _md5(evaluated, EVALUATION), md5_bytes(here.read_bytes()) if here.exists() else None
        )


def _md5(commit: Commit, path: str) -> str | None:
    found = commit.outs.get(path, {}).get("md5")
    return None if found is None else str(found)


def _with_cost(evidence: Evidence, package: Path) -> Evidence:
    """A model that cannot be timed has no figure, and is refused for that."""
    try:
        return replace(evidence, served=serving_cost.measure(package))
    except LclscError:
        return evidence
